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

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t TILE = 16;         // rows of a tile
constexpr int64_t TILE_BYTES = 64;   // of one row of a tile
constexpr int64_t LANES = 16;        // floats in a register
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

// Tiles are registers of a thread: taken when it begins a share of work, given back when it ends.
struct Tiles {
  Tiles() {
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes_per_row[tile] = TILE_BYTES;
      config.rows[tile] = TILE;
    }
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

inline __mmask16 lanes(int64_t count) { return count >= LANES ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

// e^x to a relative 2e-7: 2^n times a polynomial of the rest (Cephes).
inline __m512 exp512(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.3f)), _mm512_set1_ps(88.3f));
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

inline __m512 silu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(x, _mm512_add_ps(one, exp512(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// ---------------------------------------------------------------- rows made ready

// The rows of an input as tiles want them: padded to whole tiles; for int8, quantised, each row by its own scale.
template <Type type>
struct Rows {
  using input = typename Element<type>::input;
  int64_t count, row_elements;
  std::vector<char> storage;
  input* data;
  std::vector<float> scales;

  Rows(const at::BFloat16* from, int64_t num_rows, int64_t num_inputs, int64_t stride) : count(num_rows) {
    constexpr int64_t T = Element<type>::inputs_per_tile;
    row_elements = (num_inputs + T - 1) / T * T;
    const int64_t padded = (num_rows + TILE - 1) / TILE * TILE;
    storage.resize(padded * row_elements * sizeof(input) + 64);
    data = reinterpret_cast<input*>((reinterpret_cast<uintptr_t>(storage.data()) + 63) & ~uintptr_t(63));
    if (type == Type::int8) scales.resize(padded);
    auto fill = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        if constexpr (type == Type::int8) {
          scales[row] = quantise(from + row * stride, data + row * row_elements, num_inputs);
        } else {
          std::memcpy(data + row * row_elements, from + row * stride, num_inputs * sizeof(input));
        }
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
  at::parallel_for(0, num_pairs, 1, [&](int64_t begin, int64_t end) {
    Tiles tiles;
    alignas(64) sum sums[MAX_ROWS][2 * TILE];
    for (int64_t pair = begin; pair < end; ++pair) {
      const char* left = packed + 2 * pair * num_tiles * BYTES;
      const char* right = left + num_tiles * BYTES;
      for (int64_t first = 0; first < rows.count; first += MAX_ROWS) {
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

template <Type type>
at::Tensor linear(const at::Tensor& hidden, const at::Tensor& packed, const at::Tensor& scales, int64_t num_columns,
                  const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& residual) {
  TORCH_CHECK(hidden.dim() == 2 && hidden.stride(1) == 1 && hidden.scalar_type() == at::kBFloat16);
  TORCH_CHECK(!residual || (residual->dim() == 2 && residual->stride(1) == 1));
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
  TORCH_CHECK(hidden.dim() == 2 && hidden.stride(1) == 1 && hidden.scalar_type() == at::kBFloat16);
  const int64_t num_rows = hidden.size(0), num_columns = hidden.size(1);
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

// In place: turns the queries and keys of (rows, heads, head_dim) by their angles, then writes keys and values into
// their slots. Halves are paired as in the Hugging Face layout. cos, sin: (rows, head_dim).
void rotate_and_store(at::Tensor qkv, const at::Tensor& cos, const at::Tensor& sin, at::Tensor keys, at::Tensor values,
                      const at::Tensor& slots, int64_t num_heads, int64_t num_kv_heads) {
  const int64_t head_dim = qkv.size(2), half = head_dim / 2, num_rows = qkv.size(0);
  TORCH_CHECK(qkv.is_contiguous() && cos.is_contiguous() && sin.is_contiguous() && head_dim % 2 == 0);
  at::BFloat16* data = qkv.data_ptr<at::BFloat16>();
  const int64_t* slot_of = slots.data_ptr<int64_t>();
  const int64_t row_size = qkv.size(1) * head_dim, slot_size = num_kv_heads * head_dim;
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
      const at::BFloat16* key = data + row * row_size + num_heads * head_dim;
      std::memcpy(keys.data_ptr<at::BFloat16>() + slot_of[row] * slot_size, key, slot_size * 2);
      std::memcpy(values.data_ptr<at::BFloat16>() + slot_of[row] * slot_size, key + slot_size, slot_size * 2);
    }
  });
}

// One query position of each row against the keys in its blocks, softmax in float32.
// queries: (rows, num_heads, head_dim), rows may be strided; keys, values: (blocks, block_size, num_kv_heads, head_dim).
// block_table: (rows, n) of the blocks from position starts[row] on; a row sees [begins[row], ends[row]).
at::Tensor paged_decode(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                        const at::Tensor& block_table, const at::Tensor& starts, const at::Tensor& begins,
                        const at::Tensor& ends, double scale) {
  const int64_t num_rows = queries.size(0), num_heads = queries.size(1), head_dim = queries.size(2);
  const int64_t block_size = keys.size(1), num_kv_heads = keys.size(2), group = num_heads / num_kv_heads;
  TORCH_CHECK(head_dim % LANES == 0 && head_dim <= 256 && queries.stride(2) == 1 && queries.stride(1) == head_dim);
  at::Tensor result = at::empty({num_rows, num_heads * head_dim}, queries.options());
  const int64_t *table = block_table.data_ptr<int64_t>(), *start = starts.data_ptr<int64_t>();
  const int64_t *begin_of = begins.data_ptr<int64_t>(), *end_of = ends.data_ptr<int64_t>();
  const int64_t slot_size = num_kv_heads * head_dim, row_blocks = block_table.size(1), parts = head_dim / LANES;
  at::parallel_for(0, num_rows * num_kv_heads, 1, [&](int64_t first, int64_t last) {
    std::vector<float> scores, query(group * head_dim);
    std::vector<const at::BFloat16*> values_of;
    for (int64_t item = first; item < last; ++item) {
      const int64_t row = item / num_kv_heads, kv_head = item % num_kv_heads;
      const int64_t begin = begin_of[row], num_keys = end_of[row] - begin;
      scores.resize(group * num_keys);
      values_of.resize(num_keys);
      const at::BFloat16* q = bf16(queries) + row * queries.stride(0) + kv_head * group * head_dim;
      for (int64_t i = 0; i < group * head_dim; i += LANES) {
        _mm512_storeu_ps(query.data() + i, _mm512_mul_ps(load_bf16(q + i), _mm512_set1_ps(scale)));
      }
      for (int64_t k = 0; k < num_keys; ++k) {
        const int64_t offset = begin + k - start[row];
        const int64_t slot = table[row * row_blocks + offset / block_size] * block_size + offset % block_size;
        const at::BFloat16* key = bf16(keys) + slot * slot_size + kv_head * head_dim;
        values_of[k] = bf16(values) + slot * slot_size + kv_head * head_dim;
        __m512 x[16];
        for (int64_t p = 0; p < parts; ++p) x[p] = load_bf16(key + p * LANES);
        for (int64_t g = 0; g < group; ++g) {
          __m512 dot = _mm512_setzero_ps();
          for (int64_t p = 0; p < parts; ++p) {
            dot = _mm512_fmadd_ps(x[p], _mm512_loadu_ps(query.data() + g * head_dim + p * LANES), dot);
          }
          scores[g * num_keys + k] = _mm512_reduce_add_ps(dot);
        }
      }
      for (int64_t g = 0; g < group; ++g) {
        float* s = scores.data() + g * num_keys;
        __m512 top = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
        for (int64_t k = 0; k < num_keys; k += LANES) {
          const __mmask16 mask = lanes(num_keys - k);
          top = _mm512_mask_max_ps(top, mask, top, _mm512_maskz_loadu_ps(mask, s + k));
        }
        const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(top));
        for (int64_t k = 0; k < num_keys; k += LANES) {
          const __mmask16 mask = lanes(num_keys - k);
          const __m512 e = exp512(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, s + k), largest));
          _mm512_mask_storeu_ps(s + k, mask, e);
          total = _mm512_mask_add_ps(total, mask, total, e);
        }
        const __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
        at::BFloat16* out = result.data_ptr<at::BFloat16>() + (row * num_heads + kv_head * group + g) * head_dim;
        __m512 sum[16];
        for (int64_t p = 0; p < parts; ++p) sum[p] = _mm512_setzero_ps();
        for (int64_t k = 0; k < num_keys; ++k) {
          const __m512 weight = _mm512_set1_ps(s[k]);
          for (int64_t p = 0; p < parts; ++p) {
            sum[p] = _mm512_fmadd_ps(weight, load_bf16(values_of[k] + p * LANES), sum[p]);
          }
        }
        for (int64_t p = 0; p < parts; ++p) store_bf16(out + p * LANES, _mm512_mul_ps(sum[p], inverse));
      }
    }
  });
  return result;
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
  library.def("rotate_and_store(Tensor(a!) qkv, Tensor cos, Tensor sin, Tensor(b!) keys, Tensor(c!) values, Tensor slots, int num_heads, int num_kv_heads) -> ()",
              &rotate_and_store);
  library.def("paged_decode(Tensor queries, Tensor keys, Tensor values, Tensor block_table, Tensor starts, Tensor begins, Tensor ends, float scale) -> Tensor",
              &paged_decode);
}
