// Kernels for CPUs with AMX: matrix products in bfloat16 and int8, decode attention over paged keys and values.
//
// A packed weight is a row of tiles, [out / 16][in / T][16][64 bytes], each tile what one AMX instruction multiplies:
// 16 output columns by T inputs, T = 64 for int8 and 32 for bfloat16, the inputs interleaved by 4 or by 2. Both sizes
// are padded with zeros. Sources: Intel SDM vol. 2 (TDPBSSD, TDPBF16PS), Intel Optimization Reference Manual ch. 20.
//
// Every row of a product is computed alone, in one fixed order of its inputs: what stands in the other rows, and how
// many there are, changes nothing.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <torch/library.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

constexpr int64_t TILE = 16;         // rows of a tile
constexpr int64_t TILE_BYTES = 64;   // of one row of a tile
constexpr int64_t LANES = 16;        // floats in a register
constexpr int64_t ROW_BLOCK_BYTES = 256 << 10;  // of a core's second cache: rows that stay there for all columns
constexpr int64_t MAX_ROWS = 32;     // rows of one pass: two tiles of them, against two tiles of columns

// ---------------------------------------------------------------- tiles

bool request_tiles() {
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  static const bool granted = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
  return granted;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

TileConfig full_tiles() {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = TILE_BYTES;
    config.rows[tile] = TILE;
  }
  return config;
}

// Tiles are registers of a thread: taken when it begins a share of work, given back when it ends.
struct Tiles {
  explicit Tiles(const TileConfig& config) {
    // GCC 12 takes the instruction to read 8 of these 64 bytes, and would leave the rest unwritten.
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
};

enum class Type { bf16, int8 };

template <Type type>
struct Element;
template <>
struct Element<Type::bf16> {
  using input = at::BFloat16;
  using sum = float;
  static constexpr int64_t inputs_per_tile = 32, interleaved = 2;
};
template <>
struct Element<Type::int8> {
  using input = int8_t;
  using sum = int32_t;
  static constexpr int64_t inputs_per_tile = 64, interleaved = 4;
};

#define MULTIPLY(sum, a, b)                       \
  if constexpr (type == Type::int8) {             \
    _tile_dpbssd(sum, a, b);                      \
  } else {                                        \
    _tile_dpbf16ps(sum, a, b);                    \
  }

// sums[MAX_ROWS][32] of one or two tiles of rows with two tiles of columns.
template <Type type, bool two_row_tiles>
void multiply(const void* rows, int64_t row_bytes, const void* left, const void* right, int64_t num_tiles, void* sums) {
  const char* a = static_cast<const char*>(rows);
  const char* l = static_cast<const char*>(left);
  const char* r = static_cast<const char*>(right);
  constexpr int64_t BYTES = TILE * TILE_BYTES, SUM_ROW = 2 * TILE_BYTES;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (two_row_tiles) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < num_tiles; ++k, a += TILE_BYTES, l += BYTES, r += BYTES) {
    _tile_loadd(4, a, row_bytes);
    _tile_loadd(6, l, TILE_BYTES);
    _tile_loadd(7, r, TILE_BYTES);
    MULTIPLY(0, 4, 6)
    MULTIPLY(1, 4, 7)
    if constexpr (two_row_tiles) {
      _tile_loadd(5, a + TILE * row_bytes, row_bytes);
      MULTIPLY(2, 5, 6)
      MULTIPLY(3, 5, 7)
    }
  }
  char* out = static_cast<char*>(sums);
  _tile_stored(0, out, SUM_ROW);
  _tile_stored(1, out + TILE_BYTES, SUM_ROW);
  if constexpr (two_row_tiles) {
    _tile_stored(2, out + TILE * SUM_ROW, SUM_ROW);
    _tile_stored(3, out + TILE * SUM_ROW + TILE_BYTES, SUM_ROW);
  }
}

// ---------------------------------------------------------------- floats

inline __m512 load_bf16(const at::BFloat16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline __m512 load_bf16(const at::BFloat16* from, __mmask16 mask) {
  const __m256i bits = _mm256_maskz_loadu_epi16(mask, from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline void store_bf16(at::BFloat16* to, __m512 values, __mmask16 mask = 0xffff) {
  _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(values));
}

inline __mmask16 lanes(int64_t count) {
  return count >= LANES ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// e^x to a relative 2e-7: 2^n times a polynomial of the rest (Cephes). NaN stays NaN: min and max give their second
// operand where one is none.
inline __m512 exp512(__m512 x) {
  x = _mm512_min_ps(_mm512_set1_ps(88.3f), _mm512_max_ps(_mm512_set1_ps(-87.3f), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  }
  p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// x / (1 + e^-x), the quotient by an estimate of 14 bits and one step of Newton's: a division takes twice as long.
inline __m512 silu(__m512 x) {
  const __m512 divisor = _mm512_add_ps(_mm512_set1_ps(1.0f), exp512(_mm512_sub_ps(_mm512_setzero_ps(), x)));
  const __m512 estimate = _mm512_rcp14_ps(divisor);
  const __m512 inverse = _mm512_mul_ps(estimate, _mm512_fnmadd_ps(divisor, estimate, _mm512_set1_ps(2.0f)));
  return _mm512_mul_ps(x, inverse);
}

// ---------------------------------------------------------------- rows made ready

// The rows of an input as tiles want them: padded to whole tiles; for int8, quantised, each row by its own scale.
template <Type type>
struct Rows {
  using input = typename Element<type>::input;
  int64_t count, row_elements;
  std::unique_ptr<char[]> storage;
  input* data;
  std::vector<float> scales;

  Rows(const at::BFloat16* from, int64_t num_rows, int64_t num_inputs, int64_t stride) : count(num_rows) {
    constexpr int64_t T = Element<type>::inputs_per_tile;
    row_elements = (num_inputs + T - 1) / T * T;
    const int64_t padded = (num_rows + TILE - 1) / TILE * TILE;
    storage.reset(new char[padded * row_elements * sizeof(input) + 64]);
    data = reinterpret_cast<input*>((reinterpret_cast<uintptr_t>(storage.get()) + 63) & ~uintptr_t(63));
    std::memset(data + num_rows * row_elements, 0, (padded - num_rows) * row_elements * sizeof(input));
    if (type == Type::int8) scales.resize(padded);
    auto fill = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        if constexpr (type == Type::int8) {
          scales[row] = quantise(from + row * stride, data + row * row_elements, num_inputs);
        } else {
          std::memcpy(data + row * row_elements, from + row * stride, num_inputs * sizeof(input));
        }
        std::memset(data + row * row_elements + num_inputs, 0, (row_elements - num_inputs) * sizeof(input));
      }
    };
    if (num_rows * num_inputs < 1 << 15) {
      fill(0, num_rows);
    } else {
      at::parallel_for(0, num_rows, 8, fill);
    }
  }

  // Returns the scale: value = scale * integer. A row that is not finite gets a scale that is not, and stays broken.
  static float quantise(const at::BFloat16* from, int8_t* to, int64_t n) {
    __m512 largest = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += LANES) {
      const __m512 x = load_bf16(from + i, lanes(n - i));
      largest = _mm512_max_ps(largest, _mm512_abs_ps(x));
      sum = _mm512_add_ps(sum, _mm512_mul_ps(x, _mm512_setzero_ps()));  // NaN where a value is not finite
    }
    const float top = _mm512_reduce_max_ps(largest);
    const float scale = top / 127.0f + _mm512_reduce_add_ps(sum);
    const __m512 factor = _mm512_set1_ps(top > 0 && std::isfinite(top) ? 127.0f / top : 0.0f);
    for (int64_t i = 0; i < n; i += LANES) {
      const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(load_bf16(from + i, lanes(n - i)), factor));
      _mm_mask_storeu_epi8(to + i, lanes(n - i), _mm512_cvtsepi32_epi8(q));
    }
    return scale;
  }
};

// ---------------------------------------------------------------- products

// Calls write(row, column, sums of 16 columns, sums of the next 16) for each row and each pair of column tiles.
template <Type type, typename Write>
void product(const Rows<type>& rows, const char* packed, int64_t num_pairs, int64_t num_tiles, const Write& write) {
  using sum = typename Element<type>::sum;
  constexpr int64_t BYTES = TILE * TILE_BYTES;
  const int64_t row_bytes = rows.row_elements * sizeof(typename Element<type>::input);
  const int64_t rows_at_once = std::max<int64_t>(MAX_ROWS, ROW_BLOCK_BYTES / row_bytes / MAX_ROWS * MAX_ROWS);
  at::parallel_for(0, num_pairs, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles(full_tiles());
    alignas(64) sum sums[MAX_ROWS][2 * TILE];
    for (int64_t block = 0; block < rows.count; block += rows_at_once) {
      const int64_t block_end = std::min(rows.count, block + rows_at_once);
      for (int64_t pair = begin; pair < end; ++pair) {
        const char* left = packed + 2 * pair * num_tiles * BYTES;
        const char* right = left + num_tiles * BYTES;
        for (int64_t first = block; first < block_end; first += MAX_ROWS) {
          const auto* a = rows.data + first * rows.row_elements;
          if (rows.count - first > TILE) {
            multiply<type, true>(a, row_bytes, left, right, num_tiles, sums);
          } else {
            multiply<type, false>(a, row_bytes, left, right, num_tiles, sums);
          }
          const int64_t last = std::min(rows.count - first, MAX_ROWS);
          for (int64_t row = 0; row < last; ++row) write(first + row, pair, sums[row], sums[row] + TILE);
        }
      }
    }
  });
}

inline __m512 scaled(const float* sums, float, const float*, int64_t) { return _mm512_load_ps(sums); }

inline __m512 scaled(const int32_t* sums, float row_scale, const float* scales, int64_t column) {
  const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(row_scale), _mm512_loadu_ps(scales + column));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), scale);
}

struct Output {
  at::BFloat16* to;
  const at::BFloat16* bias;
  const at::BFloat16* residual;
  int64_t num_columns, stride, residual_stride;

  void write(int64_t row, int64_t column, __m512 value) const {
    if (column >= num_columns) return;
    const __mmask16 mask = lanes(num_columns - column);
    if (bias) value = _mm512_add_ps(value, load_bf16(bias + column, mask));
    if (residual) value = _mm512_add_ps(value, load_bf16(residual + row * residual_stride + column, mask));
    store_bf16(to + row * stride + column, value, mask);
  }
};

template <Type type>
void linear_into(const Rows<type>& rows, const at::Tensor& packed, const float* scales, const Output& out) {
  product<type>(rows, static_cast<const char*>(packed.data_ptr()), packed.size(0) / 2, packed.size(1),
                [&](int64_t row, int64_t pair, const auto* left, const auto* right) {
                  const float row_scale = type == Type::int8 ? rows.scales[row] : 1.0f;
                  const int64_t column = pair * 2 * TILE;
                  out.write(row, column, scaled(left, row_scale, scales, column));
                  out.write(row, column + TILE, scaled(right, row_scale, scales, column + TILE));
                });
}

const at::BFloat16* bf16(const at::Tensor& tensor) { return tensor.data_ptr<at::BFloat16>(); }

bool is_rows(const at::Tensor& tensor) {
  return tensor.dim() == 2 && tensor.stride(1) == 1 && tensor.scalar_type() == at::kBFloat16;
}

// Sizes under which a product would read or write beside its tensors are an error.
template <Type type>
void check_product(int64_t num_inputs, const at::Tensor& packed, const at::Tensor& scales, int64_t num_columns) {
  constexpr int64_t T = Element<type>::inputs_per_tile;
  TORCH_CHECK(packed.dim() == 4 && packed.size(0) % 2 == 0 && packed.size(1) == (num_inputs + T - 1) / T &&
                  num_columns <= packed.size(0) * TILE,
              "a product of ", num_inputs, " inputs and ", num_columns, " columns with tiles of ", packed.sizes());
  TORCH_CHECK(type == Type::bf16 || scales.numel() == packed.size(0) * TILE, "a scale for each column of the tiles");
}

void check_residual(const std::optional<at::Tensor>& residual, int64_t num_rows, int64_t num_columns) {
  TORCH_CHECK(!residual || (is_rows(*residual) && residual->size(0) == num_rows && residual->size(1) == num_columns));
}

template <Type type>
at::Tensor linear(const at::Tensor& hidden, const at::Tensor& packed, const at::Tensor& scales, int64_t num_columns,
                  const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& residual) {
  TORCH_CHECK(is_rows(hidden) && (!bias || bias->numel() == num_columns));
  check_product<type>(hidden.size(1), packed, scales, num_columns);
  check_residual(residual, hidden.size(0), num_columns);
  at::Tensor result = at::empty({hidden.size(0), num_columns}, hidden.options());
  const Rows<type> rows(bf16(hidden), hidden.size(0), hidden.size(1), hidden.stride(0));
  const Output out{result.data_ptr<at::BFloat16>(), bias ? bf16(*bias) : nullptr, residual ? bf16(*residual) : nullptr,
                   num_columns, num_columns, residual ? residual->stride(0) : 0};
  linear_into<type>(rows, packed, type == Type::int8 ? scales.data_ptr<float>() : nullptr, out);
  return result;
}

// down(silu(gate(x)) * up(x)) + residual. Gate and up are packed alternately: tile of gate, tile of up, and so on.
template <Type type>
at::Tensor gated_mlp(const at::Tensor& hidden, const at::Tensor& gate_up, const at::Tensor& gate_up_scales,
                     const at::Tensor& down, const at::Tensor& down_scales, int64_t inner_size,
                     const std::optional<at::Tensor>& residual) {
  TORCH_CHECK(is_rows(hidden));
  const int64_t num_rows = hidden.size(0), num_columns = hidden.size(1);
  check_product<type>(num_columns, gate_up, gate_up_scales, 2 * inner_size);
  check_product<type>(inner_size, down, down_scales, num_columns);
  check_residual(residual, num_rows, num_columns);
  at::Tensor inner = at::empty({num_rows, inner_size}, hidden.options());
  at::BFloat16* inner_data = inner.data_ptr<at::BFloat16>();
  const Rows<type> rows(bf16(hidden), num_rows, num_columns, hidden.stride(0));
  const float* scales = type == Type::int8 ? gate_up_scales.data_ptr<float>() : nullptr;
  product<type>(rows, static_cast<const char*>(gate_up.data_ptr()), gate_up.size(0) / 2, gate_up.size(1),
                [&](int64_t row, int64_t pair, const auto* left, const auto* right) {
                  const float row_scale = type == Type::int8 ? rows.scales[row] : 1.0f;
                  const __m512 gate = scaled(left, row_scale, scales, pair * 2 * TILE);
                  const __m512 up = scaled(right, row_scale, scales, pair * 2 * TILE + TILE);
                  const int64_t column = pair * TILE;
                  store_bf16(inner_data + row * inner_size + column, _mm512_mul_ps(silu(gate), up),
                             lanes(inner_size - column));
                });
  at::Tensor result = at::empty({num_rows, num_columns}, hidden.options());
  const Rows<type> inner_rows(inner_data, num_rows, inner_size, inner_size);
  const Output out{result.data_ptr<at::BFloat16>(), nullptr, residual ? bf16(*residual) : nullptr,
                   num_columns, num_columns, residual ? residual->stride(0) : 0};
  linear_into<type>(inner_rows, down, type == Type::int8 ? down_scales.data_ptr<float>() : nullptr, out);
  return result;
}

// (out, in) -> (tiles of columns, tiles of inputs, 16, 64 bytes); the number of column tiles is even.
template <Type type>
at::Tensor pack(const at::Tensor& weight) {
  using input = typename Element<type>::input;
  constexpr int64_t T = Element<type>::inputs_per_tile, V = Element<type>::interleaved;
  const at::Tensor from = weight.contiguous();
  const int64_t num_out = from.size(0), num_in = from.size(1);
  const int64_t num_columns = (num_out + 2 * TILE - 1) / (2 * TILE) * 2, num_tiles = (num_in + T - 1) / T;
  at::Tensor packed = at::zeros({num_columns, num_tiles, TILE, TILE * V}, from.options());
  const input* source = from.data_ptr<input>();
  input* target = packed.data_ptr<input>();
  at::parallel_for(0, num_out, 64, [&](int64_t begin, int64_t end) {
    for (int64_t out = begin; out < end; ++out) {
      for (int64_t in = 0; in < num_in; ++in) {
        const int64_t tile = (out / TILE) * num_tiles + in / T, row = in % T / V;
        target[(tile * TILE + row) * TILE * V + out % TILE * V + in % V] = source[out * num_in + in];
      }
    }
  });
  return packed;
}

// Rows of the weight again, out of its tiles: an embedding that shares its weight with the head needs no second copy.
template <Type type>
at::Tensor gather(const at::Tensor& packed, const at::Tensor& scales, const at::Tensor& ids, int64_t num_in) {
  using input = typename Element<type>::input;
  constexpr int64_t T = Element<type>::inputs_per_tile, V = Element<type>::interleaved;
  at::Tensor result = at::empty({ids.size(0), num_in}, packed.options().dtype(at::kBFloat16));
  const int64_t num_tiles = packed.size(1);
  const int64_t* id_of = ids.data_ptr<int64_t>();
  at::parallel_for(0, ids.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t id = id_of[row];
      TORCH_CHECK(id >= 0 && id < packed.size(0) * TILE, "token id ", id, " is outside the embedding");
      const input* tiles = static_cast<const input*>(packed.data_ptr()) + id / TILE * num_tiles * TILE * TILE * V;
      at::BFloat16* out = result.data_ptr<at::BFloat16>() + row * num_in;
      for (int64_t in = 0; in < num_in; ++in) {
        const input value = tiles[(in / T * TILE + in % T / V) * TILE * V + id % TILE * V + in % V];
        if constexpr (type == Type::int8) {
          out[in] = static_cast<float>(value) * scales.data_ptr<float>()[id];
        } else {
          out[in] = value;
        }
      }
    }
  });
  return result;
}

// ---------------------------------------------------------------- norm

at::Tensor rms_norm(const at::Tensor& hidden, const at::Tensor& weight, double eps) {
  TORCH_CHECK(hidden.stride(-1) == 1 && hidden.scalar_type() == at::kBFloat16);
  const at::Tensor from = hidden.contiguous();
  at::Tensor result = at::empty_like(from);
  const int64_t n = from.size(-1), num_rows = from.numel() / n;
  const float* factors = weight.data_ptr<float>();
  at::parallel_for(0, num_rows, std::max<int64_t>(1, (1 << 15) / n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const at::BFloat16* in = bf16(from) + row * n;
      at::BFloat16* out = result.data_ptr<at::BFloat16>() + row * n;
      __m512 squares = _mm512_setzero_ps();
      for (int64_t i = 0; i < n; i += LANES) {
        const __m512 x = load_bf16(in + i, lanes(n - i));
        squares = _mm512_fmadd_ps(x, x, squares);
      }
      const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(n);
      const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(mean + static_cast<float>(eps)));
      for (int64_t i = 0; i < n; i += LANES) {
        const __mmask16 mask = lanes(n - i);
        const __m512 x = _mm512_mul_ps(load_bf16(in + i, mask), scale);
        store_bf16(out + i, _mm512_mul_ps(x, _mm512_maskz_loadu_ps(mask, factors + i)), mask);
      }
    }
  });
  return result;
}

// ---------------------------------------------------------------- attention

// 16 rows of 16 floats as 16 columns: the row that was i begins at to + i * stride.
void transpose(const float (*from)[TILE], float* to, int64_t stride) {
  __m512 a[TILE], b[TILE];
  for (int64_t i = 0; i < TILE; ++i) a[i] = _mm512_load_ps(from[i]);
  for (int64_t i = 0; i < TILE; i += 2) {  // pairs of rows, then fours, within quarters of a register
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int64_t i = 0; i < TILE; i += 4) {
    for (int64_t half = 0; half < 2; ++half) {
      const __m512d low = _mm512_castps_pd(b[i + half]), high = _mm512_castps_pd(b[i + 2 + half]);
      a[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      a[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  for (int64_t i = 0; i < 4; ++i) {  // then the quarters
    const __m512 left = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88);
    const __m512 right = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
    const __m512 left_odd = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
    const __m512 right_odd = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
    _mm512_storeu_ps(to + i * stride, _mm512_shuffle_f32x4(left, right, 0x88));
    _mm512_storeu_ps(to + (4 + i) * stride, _mm512_shuffle_f32x4(left_odd, right_odd, 0x88));
    _mm512_storeu_ps(to + (8 + i) * stride, _mm512_shuffle_f32x4(left, right, 0xdd));
    _mm512_storeu_ps(to + (12 + i) * stride, _mm512_shuffle_f32x4(left_odd, right_odd, 0xdd));
  }
}

// One layer's KV cache. In bfloat16: keys and values, (blocks, block_size, num_kv_heads, head_dim). In int8: keys and
// values by head, (blocks, num_kv_heads, block_size, head_dim), then the scales of both, (blocks, num_kv_heads,
// block_size) of float32; they may be parts of one tensor.
struct Cache {
  at::Tensor keys, values, key_scales, value_scales;
  bool is_int8;
  int64_t num_blocks, block_size, num_kv_heads, head_dim, block_stride, slot_stride, head_stride;
  int64_t scale_block_stride = 0, scale_head_stride = 0;

  explicit Cache(at::TensorList tensors) : is_int8(tensors.size() == 4) {
    TORCH_CHECK(is_int8 || tensors.size() == 2, "a KV cache has two tensors, or four");
    keys = tensors[0], values = tensors[1];
    TORCH_CHECK(keys.dim() == 4 && keys.stride(3) == 1 && keys.sizes() == values.sizes() &&
                keys.strides() == values.strides());
    const auto type = is_int8 ? at::kChar : at::kBFloat16;
    TORCH_CHECK(keys.scalar_type() == type && values.scalar_type() == type, "keys and values must be ", type);
    num_blocks = keys.size(0), block_size = keys.size(is_int8 ? 2 : 1), num_kv_heads = keys.size(is_int8 ? 1 : 2);
    head_dim = keys.size(3), block_stride = keys.stride(0);
    slot_stride = keys.stride(is_int8 ? 2 : 1), head_stride = keys.stride(is_int8 ? 1 : 2);
    if (!is_int8) return;
    key_scales = tensors[2], value_scales = tensors[3];
    for (const at::Tensor& scales : {key_scales, value_scales}) {
      TORCH_CHECK(scales.scalar_type() == at::kFloat && scales.sizes() == keys.sizes().slice(0, 3) &&
                  scales.stride(2) == 1 && scales.strides() == key_scales.strides());
    }
    scale_block_stride = key_scales.stride(0), scale_head_stride = key_scales.stride(1);
  }

  int64_t element(int64_t slot, int64_t head) const {
    return slot / block_size * block_stride + slot % block_size * slot_stride + head * head_stride;
  }
  int64_t scale(int64_t slot, int64_t head) const {
    return slot / block_size * scale_block_stride + head * scale_head_stride + slot % block_size;
  }

  // keys and values of a token: (num_kv_heads, head_dim) each.
  void write(const at::BFloat16* key, const at::BFloat16* value, int64_t slot) const {
    for (int64_t head = 0; head < num_kv_heads; ++head, key += head_dim, value += head_dim) {
      const int64_t at = element(slot, head);
      if (is_int8) {
        const int64_t scale_at = scale(slot, head);
        int8_t *to_key = keys.data_ptr<int8_t>() + at, *to_value = values.data_ptr<int8_t>() + at;
        key_scales.data_ptr<float>()[scale_at] = Rows<Type::int8>::quantise(key, to_key, head_dim);
        value_scales.data_ptr<float>()[scale_at] = Rows<Type::int8>::quantise(value, to_value, head_dim);
      } else {
        std::memcpy(keys.data_ptr<at::BFloat16>() + at, key, head_dim * 2);
        std::memcpy(values.data_ptr<at::BFloat16>() + at, value, head_dim * 2);
      }
    }
  }
};

// In place: turns the queries and keys of (rows, heads, head_dim) by their angles, then writes keys and values into
// their slots. Halves are paired as in the Hugging Face layout. cos, sin: (rows, head_dim).
void rotate_and_store(at::Tensor qkv, const at::Tensor& cos, const at::Tensor& sin, at::TensorList tensors,
                      const at::Tensor& slots, int64_t num_heads) {
  const Cache cache(tensors);
  const int64_t head_dim = cache.head_dim, half = head_dim / 2, num_rows = qkv.size(0);
  const int64_t num_kv_heads = cache.num_kv_heads;
  TORCH_CHECK(qkv.is_contiguous() && qkv.size(1) == num_heads + 2 * num_kv_heads && qkv.size(2) == head_dim &&
              head_dim % 2 == 0);
  TORCH_CHECK(cos.is_contiguous() && sin.is_contiguous() && cos.numel() == num_rows * head_dim &&
              sin.numel() == cos.numel() && slots.numel() == num_rows);
  const int64_t num_slots = cache.num_blocks * cache.block_size;
  at::BFloat16* data = qkv.data_ptr<at::BFloat16>();
  const int64_t* slot_of = slots.data_ptr<int64_t>();
  const int64_t row_size = qkv.size(1) * head_dim;
  at::parallel_for(0, num_rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const at::BFloat16 *c = bf16(cos) + row * head_dim, *s = bf16(sin) + row * head_dim;
      for (int64_t head = 0; head < num_heads + num_kv_heads; ++head) {
        at::BFloat16* x = data + row * row_size + head * head_dim;
        for (int64_t i = 0; i < half; i += LANES) {
          const __mmask16 mask = lanes(half - i);
          const __m512 first = load_bf16(x + i, mask), second = load_bf16(x + half + i, mask);
          const __m512 low = _mm512_fnmadd_ps(second, load_bf16(s + i, mask), _mm512_mul_ps(first, load_bf16(c + i, mask)));
          const __m512 high = _mm512_fmadd_ps(first, load_bf16(s + half + i, mask),
                                              _mm512_mul_ps(second, load_bf16(c + half + i, mask)));
          store_bf16(x + i, low, mask);
          store_bf16(x + half + i, high, mask);
        }
      }
      TORCH_CHECK(slot_of[row] >= 0 && slot_of[row] < num_slots, "slot ", slot_of[row], " is outside the KV cache");
      const at::BFloat16* key = data + row * row_size + num_heads * head_dim;
      cache.write(key, key + num_kv_heads * head_dim, slot_of[row]);
    }
  });
}

// Keys and values of one key head, as far as some rows of one sequence see them.
template <Type type>
struct Context {
  using input = typename Element<type>::input;
  const input *keys, *values;  // of the head, in slot 0
  const float *key_scales = nullptr, *value_scales = nullptr;
  const int64_t* blocks;  // from position `start` on
  int64_t block_size, block_stride, slot_stride, scale_stride, start, begin, end;

  Context(const Cache& cache, int64_t head, const int64_t* blocks, int64_t start, int64_t begin, int64_t end)
      : keys(static_cast<const input*>(cache.keys.const_data_ptr()) + head * cache.head_stride),
        values(static_cast<const input*>(cache.values.const_data_ptr()) + head * cache.head_stride), blocks(blocks),
        block_size(cache.block_size), block_stride(cache.block_stride), slot_stride(cache.slot_stride),
        scale_stride(cache.scale_block_stride), start(start), begin(begin), end(end) {
    if (type == Type::bf16) return;
    key_scales = cache.key_scales.const_data_ptr<float>() + head * cache.scale_head_stride;
    value_scales = cache.value_scales.const_data_ptr<float>() + head * cache.scale_head_stride;
  }

  int64_t num_keys() const { return end - start; }
  bool sees(int64_t key) const { return key >= begin - start && key < end - start; }
  const input* key(int64_t key) const {
    return keys + blocks[key / block_size] * block_stride + key % block_size * slot_stride;
  }
};

// One query of one head and the positions it sees.
struct Query {
  const at::BFloat16* from;
  at::BFloat16* to;
  int64_t begin, end;
};

// What one thread needs to compute up to 16 queries of one sequence that share a key head: the heads of its group, of
// one row or of several. Keys are rows of tiles where they meet the queries; queries are rows where they meet the
// values. Each query has a column or a row of its own and always the same order of keys: it does not matter which
// others stand beside it.
//
// Keys in int8 meet queries in integers of 16 bits, which are two of 8: their sums are exact. Values in int8 are
// widened to bfloat16, which is exact too; the scale of each goes into its weight.
template <Type type>
struct QueryTile {
  using input = typename Element<type>::input;
  static constexpr int64_t DIMS = 4 * TILE;  // of values, in the four sums
  int64_t head_dim, step;                    // step: dimensions in a tile of keys
  std::vector<input> queries, low_queries, gathered, zeros;
  std::vector<at::BFloat16> weights, value_tiles;
  std::vector<float> scores, totals, query_scales;  // scores: (16 queries, keys)
  std::vector<float> key_scales, value_scales;
  std::vector<const input*> values_of;  // each key; of zeros where it is not seen
  std::vector<const char*> next_keys, next_values;  // every 16th of the next turn
  int64_t slot_bytes = 0;

  explicit QueryTile(int64_t head_dim)
      : head_dim(head_dim), step(dimensions_of_a_tile(head_dim)), queries(head_dim * TILE), gathered(TILE * head_dim),
        zeros(head_dim), value_tiles(DIMS * 2 * TILE), totals(TILE), query_scales(TILE, 1.0f) {
    if (type == Type::int8) low_queries.resize(head_dim * TILE);
  }

  static int64_t dimensions_of_a_tile(int64_t head_dim) {
    int64_t step = Element<type>::inputs_per_tile;
    while (head_dim % step) step /= 2;
    return step;
  }

  // Tiles 0 to 3: sums over values, 4: weights, 5: values, or the scores of 16 keys, 6: keys, 7: queries. Scores of
  // int8: 4 and 5.
  TileConfig tiles() const {
    TileConfig config = full_tiles();
    config.bytes_per_row[6] = step * sizeof(input);
    config.rows[7] = step / Element<type>::interleaved;
    return config;
  }

  // next: what will be attended to after this.
  void attend(const std::vector<Query>& together, const Context<type>& context, float scale,
              const Context<type>& next) {
    const int64_t num_keys = (context.num_keys() + 2 * TILE - 1) / (2 * TILE) * 2 * TILE;
    if (static_cast<int64_t>(scores.size()) < num_keys * TILE) {
      scores.resize(num_keys * TILE);
      weights.resize(num_keys * TILE);
    }
    find_values(num_keys, context);
    if constexpr (type == Type::int8) {
      find_scales(num_keys, context);
      look_ahead(next);
    }
    pack_queries(together);
    for (int64_t key = 0; key < context.num_keys(); key += TILE) {
      alignas(64) float of_keys[TILE][TILE];
      score(key, context, of_keys);
      spread(of_keys, together.size(), scores.data() + key, num_keys);
    }
    for (size_t query = 0; query < together.size(); ++query) {
      weigh(query, num_keys, together[query].begin - context.start, together[query].end - context.start, scale);
    }
    for (int64_t dim = 0; dim < head_dim; dim += DIMS) add_values(dim, num_keys, together);
  }

 private:
  void find_values(int64_t num_keys, const Context<type>& context) {
    values_of.assign(num_keys, zeros.data());
    for (int64_t key = 0, block = 0; key < context.num_keys(); key += context.block_size, ++block) {
      const input* values = context.values + context.blocks[block] * context.block_stride;
      const int64_t last = std::min(key + context.block_size, context.num_keys());
      for (int64_t i = std::max(key, context.begin - context.start); i < last; ++i) {
        values_of[i] = values + (i - key) * context.slot_stride;
      }
    }
  }

  void find_scales(int64_t num_keys, const Context<type>& context) {
    const int64_t held = num_keys + context.block_size;  // the last block may reach beyond
    if (static_cast<int64_t>(key_scales.size()) < held) {
      key_scales.resize(held);
      value_scales.resize(held);
    }
    for (int64_t key = 0, block = 0; key < context.num_keys(); key += context.block_size, ++block) {
      const int64_t at = context.blocks[block] * context.scale_stride;
      std::memcpy(key_scales.data() + key, context.key_scales + at, context.block_size * sizeof(float));
      std::memcpy(value_scales.data() + key, context.value_scales + at, context.block_size * sizeof(float));
    }
  }

  // What the next turn reads is asked for while this one computes, a line at a time between other things: asked for
  // in one go it would fill all that a core can wait for, and this turn would wait as well.
  void look_ahead(const Context<type>& next) {
    next_keys.clear();
    next_values.clear();
    slot_bytes = next.slot_stride * sizeof(input);
    if (next.block_size % TILE) return;
    for (int64_t key = 0; key < next.num_keys(); key += TILE) {
      const int64_t slot = key % next.block_size, at = next.blocks[key / next.block_size] * next.scale_stride + slot;
      next_keys.push_back(reinterpret_cast<const char*>(next.key(key)));
      next_values.push_back(next_keys.back() + (next.values - next.keys) * sizeof(input));
      _mm_prefetch(reinterpret_cast<const char*>(next.key_scales + at), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(next.value_scales + at), _MM_HINT_T0);
    }
  }

  // of: next_keys or next_values; key: counted from the first one.
  void ask_for(const std::vector<const char*>& of, int64_t key) const {
    if (key / TILE >= static_cast<int64_t>(of.size())) return;
    const char* from = of[key / TILE] + key % TILE * slot_bytes;
    for (int64_t byte = 0; byte < head_dim; byte += TILE_BYTES) _mm_prefetch(from + byte, _MM_HINT_T0);
  }

  // (sets of 2 or 4 dimensions, 16 queries, 2 or 4)
  void pack_queries(const std::vector<Query>& together) {
    for (size_t query = 0; query < together.size(); ++query) {
      if constexpr (type == Type::int8) {
        query_scales[query] = pack_in_two(together[query].from, query);
      } else {
        uint32_t pair;
        for (int64_t dim = 0; dim < head_dim; dim += 2) {
          std::memcpy(&pair, together[query].from + dim, 4);
          std::memcpy(queries.data() + dim * TILE + query * 2, &pair, 4);
        }
      }
    }
  }

  // As scale * (256 * high + low); returns the scale, which is not finite where the query is not.
  float pack_in_two(const at::BFloat16* from, size_t query) {
    constexpr float LARGEST = 127 * 256;
    __m512 largest = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
    for (int64_t dim = 0; dim < head_dim; dim += LANES) {
      const __m512 x = load_bf16(from + dim);
      largest = _mm512_max_ps(largest, _mm512_abs_ps(x));
      sum = _mm512_add_ps(sum, _mm512_mul_ps(x, _mm512_setzero_ps()));  // NaN where a value is not finite
    }
    const float top = _mm512_reduce_max_ps(largest);
    const __m512 factor = _mm512_set1_ps(top > 0 && std::isfinite(top) ? LARGEST / top : 0.0f);
    for (int64_t dim = 0; dim < head_dim; dim += LANES) {
      const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(load_bf16(from + dim), factor));
      const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
      const __m512i low = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
      const int64_t at = dim * TILE + query * 4;
      alignas(16) int32_t sets[2][4];
      _mm_store_si128(reinterpret_cast<__m128i*>(sets[0]), _mm512_cvtepi32_epi8(high));
      _mm_store_si128(reinterpret_cast<__m128i*>(sets[1]), _mm512_cvtepi32_epi8(low));
      for (int64_t set = 0; set < 4; ++set) {
        std::memcpy(queries.data() + at + set * TILE_BYTES, &sets[0][set], 4);
        std::memcpy(low_queries.data() + at + set * TILE_BYTES, &sets[1][set], 4);
      }
    }
    return top / LARGEST + _mm512_reduce_add_ps(sum);
  }

  // 16 keys from `key` on, a multiple of 16; those that are not seen are masked later.
  void score(int64_t key, const Context<type>& context, float (*of_keys)[TILE]) {
    const input* keys = gathered.data();
    int64_t stride = head_dim * sizeof(input);
    if (context.block_size % TILE == 0) {
      keys = context.key(key);
      stride = context.slot_stride * sizeof(input);
    } else {
      gather_keys(key, context);
    }
    if constexpr (type == Type::int8) {
      score_integers(keys, stride, key, of_keys);
    } else {
      _tile_zero(5);
      for (int64_t dim = 0; dim < head_dim; dim += step) {
        _tile_loadd(6, keys + dim, stride);
        _tile_loadd(7, queries.data() + dim * TILE, TILE_BYTES);
        _tile_dpbf16ps(5, 6, 7);
      }
      _tile_stored(5, of_keys, TILE_BYTES);
    }
  }

  // Without the scales of the queries, which are those of all scores of each.
  void score_integers(const input* keys, int64_t stride, int64_t key, float (*of_keys)[TILE]) {
    alignas(64) int32_t high[TILE][TILE], low[TILE][TILE];
    _tile_zero(4);
    _tile_zero(5);
    for (int64_t dim = 0; dim < head_dim; dim += step) {
      _tile_loadd(6, keys + dim, stride);
      _tile_loadd(7, queries.data() + dim * TILE, TILE_BYTES);
      _tile_dpbssd(4, 6, 7);
      _tile_loadd(7, low_queries.data() + dim * TILE, TILE_BYTES);
      _tile_dpbssd(5, 6, 7);
    }
    _tile_stored(4, high, TILE_BYTES);
    _tile_stored(5, low, TILE_BYTES);
    for (int64_t i = 0; i < TILE; ++i) {
      ask_for(next_keys, key + i);
      const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(high[i]), 8), _mm512_load_si512(low[i]));
      _mm512_store_ps(of_keys[i], _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(key_scales[key + i])));
    }
  }

  // From rows of keys to rows of queries.
  static void spread(const float (*of_keys)[TILE], size_t num_queries, float* to, int64_t stride) {
    constexpr size_t FEW = 6;  // columns that are gathered sooner than all are transposed
    if (num_queries > FEW) return transpose(of_keys, to, stride);
    const __m512i column = _mm512_setr_epi32(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240);
    for (size_t query = 0; query < num_queries; ++query) {
      _mm512_storeu_ps(to + query * stride, _mm512_i32gather_ps(column, of_keys[0] + query, 4));
    }
  }

  void gather_keys(int64_t key, const Context<type>& context) {
    for (int64_t i = 0; i < TILE; ++i) {
      const input* from = context.sees(key + i) ? context.key(key + i) : zeros.data();
      std::memcpy(gathered.data() + i * head_dim, from, head_dim * sizeof(input));
    }
  }

  // Softmax of one query over the keys [first, last): weights as bfloat16, relative to the largest, zero elsewhere, and
  // the sum of what they were rounded to. For int8 the scale of each value is in its weight, and not in the sum.
  void weigh(int64_t query, int64_t num_keys, int64_t first, int64_t last, float scale) {
    float* own = scores.data() + query * num_keys;
    at::BFloat16* w = weights.data() + query * num_keys;
    __m512 top = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    for (int64_t key = 0; key < last; key += LANES) {
      const __mmask16 seen = lanes(last - key) & ~lanes(first - key);
      const __m512 score = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, _mm512_loadu_ps(own + key));
      top = _mm512_max_ps(top, score);
    }
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    const __m512 factor = _mm512_set1_ps(scale * query_scales[query]);
    for (int64_t key = 0; key < last; key += LANES) {
      const __mmask16 seen = lanes(last - key) & ~lanes(first - key);
      const __m512 distance = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(own + key), largest), factor);
      const __m512 weight = _mm512_maskz_mov_ps(seen, exp512(distance));
      if constexpr (type == Type::int8) {
        store_bf16(w + key, _mm512_maskz_mul_ps(seen, weight, _mm512_loadu_ps(value_scales.data() + key)));
        total = _mm512_add_ps(total, weight);
      } else {
        store_bf16(w + key, weight);
        total = _mm512_add_ps(total, load_bf16(w + key));
      }
    }
    const int64_t written = (last + LANES - 1) / LANES * LANES;
    std::memset(w + written, 0, (num_keys - written) * 2);
    totals[query] = _mm512_reduce_add_ps(total);
  }

  void add_values(int64_t dim, int64_t num_keys, const std::vector<Query>& together) {
    const int64_t num_tiles = std::min(DIMS, head_dim - dim) / TILE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t key = 0; key < num_keys; key += 2 * TILE) {
      pack_values(key, dim, num_tiles);
      _tile_loadd(4, weights.data() + key, num_keys * 2);
#define ADD_VALUES(sum)                                                     \
  if (sum < num_tiles) {                                                    \
    _tile_loadd(5, value_tiles.data() + sum * TILE * 2 * TILE, TILE_BYTES); \
    _tile_dpbf16ps(sum, 4, 5);                                              \
  }
      ADD_VALUES(0)
      ADD_VALUES(1)
      ADD_VALUES(2)
      ADD_VALUES(3)
#undef ADD_VALUES
    }
    alignas(64) float sums[4][TILE][TILE];
    _tile_stored(0, sums[0], TILE_BYTES);
    _tile_stored(1, sums[1], TILE_BYTES);
    _tile_stored(2, sums[2], TILE_BYTES);
    _tile_stored(3, sums[3], TILE_BYTES);
    for (size_t query = 0; query < together.size(); ++query) {
      const __m512 inverse = _mm512_set1_ps(1.0f / totals[query]);
      for (int64_t tile = 0; tile < num_tiles; ++tile) {
        const __m512 mean = _mm512_mul_ps(_mm512_load_ps(sums[tile][query]), inverse);
        store_bf16(together[query].to + dim + tile * TILE, mean);
      }
    }
  }

  // 32 keys as (tiles of 16 dimensions, pairs of keys, 16 dimensions, 2). Zeros for keys that nobody sees: what stands
  // in their slots may be no number, and 0 times that is none either.
  void pack_values(int64_t key, int64_t dim, int64_t num_tiles) {
    for (int64_t pair = 0; pair < TILE; ++pair) {
      if constexpr (type == Type::int8) {
        ask_for(next_values, key + 2 * pair);
        ask_for(next_values, key + 2 * pair + 1);
      }
      const input *low = values_of[key + 2 * pair] + dim, *high = values_of[key + 2 * pair + 1] + dim;
      at::BFloat16* to = value_tiles.data() + pair * 2 * TILE;
      for (int64_t tile = 0; tile < num_tiles; ++tile, low += TILE, high += TILE, to += TILE * 2 * TILE) {
        _mm512_storeu_si512(to, interleaved(low, high));
      }
    }
  }

  // 16 pairs of bfloat16.
  static __m512i interleaved(const at::BFloat16* low, const at::BFloat16* high) {
    const __m256i l = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low));
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high));
    return _mm512_or_si512(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16), _mm512_cvtepu16_epi32(l));
  }
  // An integer of 8 bits is a float whose lower half is zero.
  static __m512i interleaved(const int8_t* low, const int8_t* high) {
    const __m128i l = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(high));
    const __m512i first = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(l)));
    const __m512i second = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(h)));
    return _mm512_or_si512(_mm512_srli_epi32(first, 16), second);
  }
};

// Rows see nothing outside the blocks of their sequence, and blocks are those of the cache: else an error.
void check_rows(int64_t num_rows, int64_t num_blocks, int64_t block_size, const at::Tensor& block_tables,
                const at::Tensor& starts, const at::Tensor& sequence_of, const at::Tensor& begins,
                const at::Tensor& ends) {
  TORCH_CHECK(block_tables.dim() == 2 && block_tables.is_contiguous() && starts.numel() == block_tables.size(0) &&
              sequence_of.numel() == num_rows && begins.numel() == num_rows && ends.numel() == num_rows);
  const int64_t* block = block_tables.data_ptr<int64_t>();
  bool is_inside = true;
  for (int64_t i = 0; i < block_tables.numel(); ++i) is_inside &= block[i] >= 0 && block[i] < num_blocks;
  TORCH_CHECK(is_inside, "a block table names a block outside the KV cache");
  const int64_t *sequence = sequence_of.data_ptr<int64_t>(), *start = starts.data_ptr<int64_t>();
  const int64_t *begin = begins.data_ptr<int64_t>(), *end = ends.data_ptr<int64_t>();
  const int64_t num_sequences = starts.numel(), num_slots = block_tables.size(1) * block_size;
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t of = sequence[row];
    TORCH_CHECK(of >= 0 && of < num_sequences && start[of] <= begin[row] && begin[row] < end[row] &&
                    end[row] <= start[of] + num_slots,
                "a row sees positions [", begin[row], ", ", end[row], "), which its blocks do not hold");
  }
}

// Each row against the keys in the blocks of its sequence, softmax in float32.
// queries: (rows, num_heads, head_dim), rows may be strided.
// block_tables: (sequences, n) of the blocks from position starts[sequence] on. sequence_of: (rows,), rows of one
// sequence stand together; a row sees positions [begins[row], ends[row]).
template <Type type>
at::Tensor attend_rows(const at::Tensor& queries, const Cache& cache, const at::Tensor& block_tables,
                       const at::Tensor& starts, const at::Tensor& sequence_of, const at::Tensor& begins,
                       const at::Tensor& ends, double scale) {
  const int64_t num_rows = queries.size(0), num_heads = queries.size(1), head_dim = queries.size(2);
  const int64_t num_kv_heads = cache.num_kv_heads, group = num_heads / num_kv_heads;
  TORCH_CHECK(head_dim % LANES == 0 && head_dim <= 256 && queries.stride(2) == 1 && queries.stride(1) == head_dim);
  TORCH_CHECK(group <= TILE, "more than 16 heads share a key head");
  TORCH_CHECK(cache.head_dim == head_dim, "a KV cache of another head_dim");
  check_rows(num_rows, cache.num_blocks, cache.block_size, block_tables, starts, sequence_of, begins, ends);
  at::Tensor result = at::empty({num_rows, num_heads * head_dim}, queries.options());
  const int64_t *sequence = sequence_of.data_ptr<int64_t>(), *start = starts.data_ptr<int64_t>();
  const int64_t *begin = begins.data_ptr<int64_t>(), *end = ends.data_ptr<int64_t>();
  std::vector<int64_t> first_rows;  // of each set of rows that is computed together
  for (int64_t row = 0; row < num_rows; ++row) {
    const bool is_next = row > 0 && sequence[row] == sequence[row - 1] && row - first_rows.back() < TILE / group;
    if (!is_next) first_rows.push_back(row);
  }
  first_rows.push_back(num_rows);
  const int64_t num_sets = first_rows.size() - 1, num_items = num_sets * num_kv_heads;
  // Later rows see more keys: they take turns with the early ones, so that every thread has as much to do. The heads of
  // a set come one after the other: what they read lies side by side.
  auto set_of = [&](int64_t turn) {
    const int64_t set_turn = turn / num_kv_heads;
    return set_turn % 2 ? num_sets - 1 - set_turn / 2 : set_turn / 2;
  };
  auto context_of = [&](int64_t turn) {
    const int64_t set = set_of(turn), row = first_rows[set], last_row = first_rows[set + 1], of = sequence[row];
    const int64_t* blocks = block_tables.data_ptr<int64_t>() + of * block_tables.size(1);
    const int64_t first_seen = *std::min_element(begin + row, begin + last_row);
    const int64_t last_seen = *std::max_element(end + row, end + last_row);
    return Context<type>(cache, turn % num_kv_heads, blocks, start[of], first_seen, last_seen);
  };
  at::parallel_for(0, num_items, 1, [&](int64_t first, int64_t last) {
    QueryTile<type> tile(head_dim);
    const Tiles tiles(tile.tiles());
    std::vector<Query> together;
    for (int64_t turn = first; turn < last; ++turn) {
      const int64_t set = set_of(turn), kv_head = turn % num_kv_heads;
      together.clear();
      for (int64_t row = first_rows[set]; row < first_rows[set + 1]; ++row) {
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
          const at::BFloat16* query = bf16(queries) + row * queries.stride(0) + head * head_dim;
          at::BFloat16* to = result.data_ptr<at::BFloat16>() + (row * num_heads + head) * head_dim;
          together.push_back({query, to, begin[row], end[row]});
        }
      }
      tile.attend(together, context_of(turn), static_cast<float>(scale), context_of(std::min(turn + 1, last - 1)));
    }
  });
  return result;
}

at::Tensor paged_attention(const at::Tensor& queries, at::TensorList tensors, const at::Tensor& block_tables,
                           const at::Tensor& starts, const at::Tensor& sequence_of, const at::Tensor& begins,
                           const at::Tensor& ends, double scale) {
  const Cache cache(tensors);
  const auto attend = cache.is_int8 ? &attend_rows<Type::int8> : &attend_rows<Type::bf16>;
  return attend(queries, cache, block_tables, starts, sequence_of, begins, ends, scale);
}

// ---------------------------------------------------------------- decoder layers

std::optional<at::Tensor> given(const at::Tensor& tensor) {
  return tensor.numel() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

// All layers of a decoder, one after the other, so that nothing between them is left to the caller.
// weights of each: norm; qkv: tiles, scales, bias; output: tiles, scales, bias; norm; gate and up: tiles, scales;
// down: tiles, scales. caches: as many tensors of each, see Cache. rows: as paged_attention takes them. eps: of the two
// norms.
template <Type type>
at::Tensor decoder_layers(at::Tensor hidden, at::TensorList weights, at::TensorList caches, const at::Tensor& cos,
                          const at::Tensor& sin, const at::Tensor& slots, at::TensorList rows, int64_t num_heads,
                          int64_t inner_size, at::ArrayRef<double> eps) {
  constexpr size_t WEIGHTS = 12;
  TORCH_CHECK(weights.size() % WEIGHTS == 0 && rows.size() == 5 && eps.size() == 2);
  const size_t num_layers = weights.size() / WEIGHTS, of_a_cache = caches.size() / std::max<size_t>(num_layers, 1);
  TORCH_CHECK(of_a_cache * num_layers == caches.size(), "layers and caches that do not belong together");
  for (size_t layer = 0; layer < num_layers; ++layer) {
    const at::TensorList w = weights.slice(layer * WEIGHTS, WEIGHTS);
    const at::TensorList tensors = caches.slice(layer * of_a_cache, of_a_cache);
    const Cache cache(tensors);
    const int64_t head_dim = cache.head_dim, heads = num_heads + 2 * cache.num_kv_heads;
    at::Tensor qkv = linear<type>(rms_norm(hidden, w[0], eps[0]), w[1], w[2], heads * head_dim, given(w[3]), {});
    qkv = qkv.view({hidden.size(0), heads, head_dim});
    rotate_and_store(qkv, cos, sin, tensors, slots, num_heads);
    const at::Tensor attended = paged_attention(qkv.narrow(1, 0, num_heads), tensors, rows[0], rows[1], rows[2],
                                                rows[3], rows[4], 1 / std::sqrt(static_cast<double>(head_dim)));
    hidden = linear<type>(attended, w[4], w[5], hidden.size(1), given(w[6]), hidden);
    hidden = gated_mlp<type>(rms_norm(hidden, w[7], eps[1]), w[8], w[9], w[10], w[11], inner_size, hidden);
  }
  return hidden;
}

}  // namespace

TORCH_LIBRARY(enginebay, library) {
  library.def("request_tiles() -> bool", &request_tiles);
  library.def("pack_bf16(Tensor weight) -> Tensor", &pack<Type::bf16>);
  library.def("pack_int8(Tensor weight) -> Tensor", &pack<Type::int8>);
  library.def("linear_bf16(Tensor hidden, Tensor packed, Tensor scales, int num_columns, Tensor? bias, Tensor? residual) -> Tensor",
              &linear<Type::bf16>);
  library.def("linear_int8(Tensor hidden, Tensor packed, Tensor scales, int num_columns, Tensor? bias, Tensor? residual) -> Tensor",
              &linear<Type::int8>);
  library.def("gated_mlp_bf16(Tensor hidden, Tensor gate_up, Tensor gate_up_scales, Tensor down, Tensor down_scales, int inner_size, Tensor? residual) -> Tensor",
              &gated_mlp<Type::bf16>);
  library.def("gated_mlp_int8(Tensor hidden, Tensor gate_up, Tensor gate_up_scales, Tensor down, Tensor down_scales, int inner_size, Tensor? residual) -> Tensor",
              &gated_mlp<Type::int8>);
  library.def("gather_bf16(Tensor packed, Tensor scales, Tensor ids, int num_in) -> Tensor", &gather<Type::bf16>);
  library.def("gather_int8(Tensor packed, Tensor scales, Tensor ids, int num_in) -> Tensor", &gather<Type::int8>);
  library.def("rms_norm(Tensor hidden, Tensor weight, float eps) -> Tensor", &rms_norm);
  library.def("rotate_and_store(Tensor(a!) qkv, Tensor cos, Tensor sin, Tensor(b!)[] cache, Tensor slots, int num_heads) -> ()",
              &rotate_and_store);
  library.def("paged_attention(Tensor queries, Tensor[] cache, Tensor block_tables, Tensor starts, Tensor sequence_of, Tensor begins, Tensor ends, float scale) -> Tensor",
              &paged_attention);
  library.def("decoder_layers_bf16(Tensor hidden, Tensor[] weights, Tensor(a!)[] caches, Tensor cos, Tensor sin, Tensor slots, Tensor[] rows, int num_heads, int inner_size, float[] eps) -> Tensor",
              &decoder_layers<Type::bf16>);
  library.def("decoder_layers_int8(Tensor hidden, Tensor[] weights, Tensor(a!)[] caches, Tensor cos, Tensor sin, Tensor slots, Tensor[] rows, int num_heads, int inner_size, float[] eps) -> Tensor",
              &decoder_layers<Type::int8>);
}
