import pytest
from tiny_tokenizers import byte_level


@pytest.fixture
def model_dir(tmp_path):
    """A directory that looks like a model; nothing but its tokenizer is read on this side."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}')
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path
