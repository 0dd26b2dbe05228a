import re

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from enginebay.backends.reference.chat_template import ChatTemplate
from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.types import Chat, ImagePart, Message, TextPart

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system
Be helpful<|im_end|>
{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA_2 = """{{ bos_token }}{% for message in messages %}
    {%- if message['role'] == 'user' %}[INST] {{ message['content'].strip() }} [/INST]
    {%- elif message['role'] == 'assistant' %} {{ message['content'].strip() }}{{ eos_token }}
    {%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}"""
LOOPS = """{%- set ns = namespace(seen=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.seen = ns.seen + 1 %}
    {%- if ns.seen > 3 %}{% break %}{% endif %}
    {% generation %}{{ message.content | tojson }}{% endgeneration %}

{% endfor %}
{{ {"ä": "<b>", "n": dict(a=1)} | tojson(indent=2) }} {{ enable_thinking | default('unset') }}{{ documents is none }}"""
TOOLS = """{% for m in messages %}{{ m.role }}:{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name }}
{{- c.function.arguments.city }}{% endfor %}{% else %}{{ m.content }}{% endif %}{{ m.tool_call_id }}{{ m.name }}
{% endfor %}{{ tools is none }}"""
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

CONVERSATIONS = {
    "one": [("user", "Hi")],
    "several": [("user", " Hällo 🙂 "), ("assistant", "<b>&'\"\n"), ("user", "{{ not a template }}")],
    "long": [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
}


def chat(*messages, **fields):
    return Chat(tuple(Message(role, content) for role, content in messages), **fields)


def by_transformers(template, messages, **options):
    plain = [{"role": role, "content": content} for role, content in messages]
    [rendered], _ = render_jinja_template([plain], chat_template=template, **SPECIAL, **options)
    return rendered


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", [CHATML, LLAMA_2, LOOPS], ids=["chatml", "llama_2", "loops"])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_chat_is_rendered_as_transformers_renders_it(template, messages, add_generation_prompt):
    ours = ChatTemplate(template, special_tokens=SPECIAL).render(
        chat(*messages, add_generation_prompt=add_generation_prompt, template_kwargs={"enable_thinking": False})
    )
    assert ours == by_transformers(
        template, messages, add_generation_prompt=add_generation_prompt, enable_thinking=False
    )


@pytest.mark.parametrize("answer", ["It is", "It is  ", "line\n"])
@pytest.mark.parametrize("template", [CHATML, LLAMA_2], ids=["chatml", "llama_2"])
def test_a_continued_message_ends_where_transformers_ends_it(template, answer):
    messages = [("user", "Where?"), ("assistant", answer)]
    ours = ChatTemplate(template, special_tokens=SPECIAL).render(
        chat(*messages, add_generation_prompt=False, continue_final_message=True)
    )
    assert ours == by_transformers(template, messages, continue_final_message=True)
    assert ours.endswith((answer, answer.rstrip()))


def test_parts_of_text_become_one_text():
    message = Message("user", (TextPart("one"), TextPart("two")))
    assert "user\none\ntwo<|im_end|>" in ChatTemplate(CHATML, special_tokens={}).render(Chat((message,)))


def test_earlier_tool_calls_reach_the_template_with_their_arguments_as_an_object():
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = (Message("assistant", None, tool_calls=(call,)), Message("tool", "22 °C", name="w", tool_call_id="1"))
    text = ChatTemplate(TOOLS, special_tokens={}).render(Chat(messages))
    assert text == "assistant:weatherRome\ntool:22 °C1w\nTrue"
    assert call["function"]["arguments"] == '{"city": "Rome"}'


def test_strftime_now_gives_the_date():
    assert re.fullmatch(
        r"\d{4}", ChatTemplate("{{ strftime_now('%Y') }}", special_tokens={}).render(chat(("user", "")))
    )


def refusal(template, given, field):
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate(template, special_tokens=SPECIAL).render(given)
    assert caught.value.field == field
    return str(caught.value)


def test_what_the_template_refuses_is_an_invalid_request_with_its_own_words():
    assert "Only user and assistant roles" in refusal(LLAMA_2, chat(("system", "x")), "messages")


def test_a_model_without_a_template_says_what_to_do():
    assert "plain prompt" in refusal(None, chat(("user", "x")), "messages")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].nothing.further }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ range(10000000) | list }}",
        "{{ ''.__class__.__mro__ }}",
        "{% set ns = namespace(__init__=1) %}",
        "{{ messages.append(1) }}",
        "{{ dict.__subclasses__() }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_of_the_request_that_fails_or_leaves_the_sandbox_is_refused(template):
    refusal(CHATML, chat(("user", "x"), template=template), "chat_template")


def test_a_message_cannot_be_continued_and_a_new_one_begun():
    given = chat(("assistant", "x"), continue_final_message=True, add_generation_prompt=True)
    assert "exclude" in refusal(CHATML, given, "continue_final_message")


def test_a_message_that_the_template_drops_cannot_be_continued():
    given = chat(("assistant", "x"), continue_final_message=True, add_generation_prompt=False)
    assert "leaves out" in refusal("nothing", given, "continue_final_message")
    empty = chat(("assistant", ""), continue_final_message=True, add_generation_prompt=False)
    assert "no text" in refusal(CHATML, empty, "continue_final_message")


def test_an_image_and_broken_tool_arguments_are_refused():
    refusal(CHATML, Chat((Message("user", (ImagePart("data:,"),)),)), "image_url")
    call = {"function": {"name": "f", "arguments": "{"}}
    assert "valid JSON" in refusal(CHATML, Chat((Message("assistant", "", tool_calls=(call,)),)), "messages")


def test_the_template_cannot_be_replaced_through_its_keywords():
    given = chat(("user", "x"), template_kwargs={"messages": [], "add_generation_prompt": False})
    assert "user\nx" in ChatTemplate(CHATML, special_tokens={}).render(given)


WITH_NAMES = (
    "{% for m in messages %}{{ m.role }}{% if m.role == 'user' %} {{ m.name | upper }}{% endif %}: x {% endfor %}"
)


def test_a_name_that_the_template_shows_is_taken():
    given = Chat((Message("user", "x", name="ann"), Message("user", "y", name="bob")))
    assert ChatTemplate(WITH_NAMES, special_tokens={}).render(given) == "user ANN: x user BOB: x "


def test_a_name_that_the_template_drops_is_refused_by_its_place():
    given = Chat((Message("user", "x", name="ann"), Message("assistant", "y", name="bob")))
    for template, place in ((CHATML, 0), (WITH_NAMES, 1)):
        with pytest.raises(UnsupportedFeature, match="leaves it out") as caught:
            ChatTemplate(template, special_tokens={}).render(given)
        assert caught.value.field == f"messages[{place}].name"
