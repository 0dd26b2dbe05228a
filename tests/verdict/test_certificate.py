"""The audit of what was really sent: it agrees with the servers' own books, and finds each kind of tampering."""

import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import pytest
from certificate_fakes import measured, small_plan, with_field

from enginebay.errors import NotComparable
from enginebay.loadtest.plan import Load, load_plan
from enginebay.loadtest.records import read_records, write_records
from enginebay.loadtest.result import load_result, save_result
from enginebay.loadtest.sent.sent import read_sent, write_sent
from enginebay.verdict.certificate.certificate import Certificate, load_certificate, save_certificate
from enginebay.verdict.certificate.certify import certify, make_certificate, verify
from enginebay.verdict.certificate.for_comparison import check_for_comparison

OPEN_LOOP = Load(rate=40.0, arrivals="constant")


def fault_codes(certificate: Certificate) -> list[str]:
    return [fault.code for _, fault in certificate.faults]


def change_sent(folder: Path, change) -> None:
    """change: of the list of lines of sent.jsonl."""
    lines = read_sent(folder / "sent.jsonl")
    write_sent(folder / "sent.jsonl", change(lines))


def change_record(folder: Path, index: int, **changes) -> None:
    lines = read_records(folder / "records.jsonl")
    for line in lines:
        if line.record.index == index:
            for name, value in changes.items():
                setattr(line.record, name, value)
    write_records(folder / "records.jsonl", lines)


@pytest.fixture(scope="module")
def closed_loop_measured_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("closed")
    measured(folder, small_plan(), "a", "b")
    return folder


@pytest.fixture(scope="module")
def open_loop_measured_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("open")
    measured(folder, small_plan(loads=[OPEN_LOOP]), "a")
    return folder


@pytest.fixture
def closed(closed_loop_measured_once, tmp_path) -> Path:
    """A copy, to be tampered with: two backends, two users."""
    return Path(shutil.copytree(closed_loop_measured_once, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def opened(open_loop_measured_once, tmp_path) -> Path:
    """A copy, to be tampered with: one backend, an open loop."""
    return Path(shutil.copytree(open_loop_measured_once, tmp_path, dirs_exist_ok=True))


# ---------------------------------------------------------------- what was sent


@pytest.mark.parametrize("form", ["text", "token_ids", "messages"])
def test_two_servers_of_one_dialect_received_the_same_bytes_but_for_the_models_name(tmp_path, form) -> None:
    received = measured(tmp_path, small_plan(form=form), "a", "b", models=("model-of-a", "b"))
    certificate = certify(tmp_path)
    assert fault_codes(certificate) == []
    assert certificate.is_identical
    assert certificate.simulated
    assert [one.level for one in certificate.likenesses] == ["bytes"]
    told = [
        [request.body.replace(b'"model":"' + name + b'"', b'"model":""') for request in received[label]]
        for label, name in (("a", b"model-of-a"), ("b", b"b"))
    ]
    assert sorted(told[0]) == sorted(told[1])


def test_the_books_of_the_client_are_those_of_the_server(tmp_path) -> None:
    received = measured(tmp_path, small_plan(), "a")
    sent = [line.sent for line in read_sent(tmp_path / "sent.jsonl")]
    by_id = {request.headers["x-request-id"]: request.body for request in received["a"]}
    assert len(by_id) == len(sent) == 6
    for one in sent:
        [body] = [body for request_id, body in by_id.items() if request_id.endswith(f"-{one.index}")]
        assert hashlib.sha256(body).hexdigest() == one.body_sha256
        assert one.num_bytes == len(body)
        assert one.path == "/v1/completions"


def test_the_certificate_names_the_sampling_fields_and_those_that_the_plan_leaves_off(closed) -> None:
    audit = certify(closed).runs[0]
    assert {"temperature", "top_p", "top_k", "seed", "stop", "max_tokens"} <= set(audit.fields_sent)
    assert audit.fields_not_carried == ("logit_bias",)
    assert audit.num_prompt_tokens == 18
    assert (audit.num_requests, audit.num_sent_again) == (6, 0)


def test_no_text_and_no_key_stands_in_what_is_saved(closed) -> None:
    certify(closed)
    for name in ("sent.jsonl", "certificate.json"):
        assert "words here" not in (closed / name).read_text()
        assert "authorization" not in (closed / name).read_text().lower()


def test_open_loops_are_held_to_their_instants(tmp_path) -> None:
    measured(tmp_path, small_plan(loads=[OPEN_LOOP]), "a", "b")
    certificate = certify(tmp_path)
    for audit in certificate.runs:
        assert audit.offset_error_p99_s is not None
        assert audit.offset_error_p99_s >= 0
    # A busy machine may make the client late, and then the certificate says so.
    assert {fault.code for _, fault in certificate.faults} <= {"offsets_differ"}


# ---------------------------------------------------------------- tampering on the wire


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("prompt", "3 words herf", "prompt_differs"),
        ("temperature", 0.51, "sampling_differs"),
        ("seed", None, "sampling_differs"),
        ("top_k", None, "sampling_differs"),
        ("stop", ["Never"], "sampling_differs"),
        ("max_tokens", 4, "sampling_differs"),
        ("frequency_penalty", 0.1, "sampling_differs"),
        ("ignore_eos", True, "sampling_differs"),
    ],
)
def test_one_request_that_is_sent_otherwise_to_one_backend_is_found(tmp_path, name, value, code) -> None:
    measured(tmp_path, small_plan(), "a", "b", tampering={"b": with_field(name, value)})
    certificate = certify(tmp_path)
    found = [(run.run.label, fault) for run, fault in certificate.faults]
    assert [(label, fault.code) for label, fault in found] == [("b", code)]
    assert found[0][1].detail.startswith("1 requests")
    assert found[0][1].detail.endswith(": 3")
    assert not certificate.is_identical


def test_a_field_that_is_none_of_sampling_makes_two_loads_of_one_dialect_different(tmp_path) -> None:
    measured(tmp_path, small_plan(), "a", "b", tampering={"b": with_field("best_of", 4)})
    certificate = certify(tmp_path)
    assert fault_codes(certificate) == []
    [likeness] = certificate.likenesses
    assert (likeness.level, likeness.other_fields) == ("apart", ("best_of",))
    assert not certificate.is_identical


def test_what_only_shapes_the_answer_is_named_and_no_other_load(tmp_path) -> None:
    tampering = {"b": with_field("return_token_ids", False)}
    measured(tmp_path, small_plan(), "a", "b", tampering=tampering)
    [likeness] = certify(tmp_path).likenesses
    assert (likeness.level, likeness.other_fields) == ("fields", ("return_token_ids",))


def test_a_backend_without_a_wire_is_not_audited(closed) -> None:
    change_sent(closed, lambda lines: [])
    assert set(fault_codes(make_certificate(closed))) == {"not_audited"}


# ---------------------------------------------------------------- tampering with the files


def test_a_certificate_is_made_again_from_the_files_and_its_hash_stands_in_the_result(closed) -> None:
    certificate = certify(closed)
    assert load_result(closed).certificate_sha256 == certificate.sha256
    assert load_certificate(closed) == certificate
    assert verify(certificate, closed) == []
    assert check_for_comparison(closed) == []


def _one_byte(folder: Path) -> None:
    path = folder / "sent.jsonl"
    content = bytearray(path.read_bytes())
    at = content.index(b'"load_sha256":"') + 20
    content[at] = ord("0") if content[at] != ord("0") else ord("1")
    path.write_bytes(content)


def _one_missing(folder: Path) -> None:
    change_sent(folder, lambda lines: [line for line in lines if line.sent.index != 3])


def _one_field(folder: Path) -> None:
    def change(lines):
        lines[2].sent.sampling["temperature"] = 0.7
        return lines

    change_sent(folder, change)


def _offsets_shifted(folder: Path) -> None:
    def change(lines):
        return [
            msgspec.structs.replace(line, sent=msgspec.structs.replace(line.sent, at=line.sent.at + 0.05))
            for line in lines
        ]

    change_sent(folder, change)


def _record_edited(folder: Path) -> None:
    change_record(folder, 3, sent_at=0.0)


def _validity_edited(folder: Path) -> None:
    result = load_result(folder)
    runs = [msgspec.structs.replace(result.runs[0], simulated=False), *result.runs[1:]]
    save_result(msgspec.structs.replace(result, runs=runs), folder / "result.json")


@pytest.mark.parametrize(
    "tamper", [_one_byte, _one_missing, _one_field, _offsets_shifted, _record_edited, _validity_edited]
)
def test_a_file_that_was_changed_afterwards_does_not_fit_and_is_not_compared(closed, tamper) -> None:
    certificate = certify(closed)
    tamper(closed)
    assert verify(certificate, closed) != []
    with pytest.raises(NotComparable, match="does not fit"):
        check_for_comparison(closed)


@pytest.mark.parametrize(
    ("tamper", "codes"),
    [
        (_one_missing, {"request_missing"}),
        (_one_field, {"sampling_differs"}),
        (_offsets_shifted, {"offsets_differ", "record_differs"}),
    ],
)
def test_the_audit_itself_finds_it_where_the_certificate_is_made_anew(opened, tamper, codes) -> None:
    tamper(opened)
    assert codes <= set(fault_codes(certify(opened)))


def test_requests_that_are_sent_before_their_instant_are_found(opened) -> None:

    def earlier(lines):
        return [
            msgspec.structs.replace(line, sent=msgspec.structs.replace(line.sent, at=line.sent.at - 0.02))
            for line in lines
        ]

    change_sent(opened, earlier)
    assert "sent_early" in fault_codes(certify(opened))


def test_a_schedule_that_was_rewritten_in_the_records_is_found(opened) -> None:
    change_record(opened, 3, scheduled_at=0.5)
    assert "1 requests recorded with another instant than planned: 3" in [
        fault.detail for _, fault in certify(opened).faults
    ]


def test_more_requests_at_a_time_than_users_are_found(closed) -> None:
    for index in range(6):
        change_record(closed, index, ended_at=9.0)
    assert set(fault_codes(certify(closed))) == {"too_many_at_a_time"}


def test_a_request_that_was_sent_again_on_a_fresh_connection_is_counted_and_must_be_the_same(closed) -> None:

    def again(lines):
        return [*lines, lines[0]]

    change_sent(closed, again)
    certificate = certify(closed)
    assert (fault_codes(certificate), certificate.runs[0].num_sent_again) == ([], 1)

    def changed(lines):
        return [
            *lines[:-1],
            msgspec.structs.replace(lines[-1], sent=msgspec.structs.replace(lines[-1].sent, body_sha256="x")),
        ]

    change_sent(closed, changed)
    assert fault_codes(certify(closed)) == ["request_changed"]


# ---------------------------------------------------------------- comparing folders


def test_two_folders_of_one_plan_are_held_against_each_other(tmp_path) -> None:
    for name in ("one", "two"):
        measured(tmp_path / name, small_plan(), name)
        certify(tmp_path / name)
    assert check_for_comparison(tmp_path / "one", tmp_path / "two") == []


def test_a_folder_whose_load_was_tampered_with_on_the_wire_is_refused(tmp_path) -> None:
    measured(tmp_path / "one", small_plan(), "one")
    measured(tmp_path / "two", small_plan(), "two", tampering={"two": with_field("best_of", 4)})
    certify(tmp_path / "one")
    certify(tmp_path / "two")
    with pytest.raises(NotComparable, match="best_of"):
        check_for_comparison(tmp_path / "one", tmp_path / "two")


def test_a_certificate_that_result_json_does_not_name_is_refused(closed) -> None:
    certificate = certify(closed)
    save_certificate(msgspec.structs.replace(certificate, is_identical=False), closed)
    with pytest.raises(NotComparable, match="not the one that"):
        check_for_comparison(closed)
    (closed / "certificate.json").unlink()
    with pytest.raises(NotComparable, match="is missing"):
        check_for_comparison(closed)


def test_a_result_that_nobody_audited_and_one_without_its_records_are_told_as_such(closed) -> None:
    [caveat] = check_for_comparison(closed)
    assert "nobody has audited" in caveat
    certify(closed)
    (closed / "records.jsonl").unlink()
    [caveat] = check_for_comparison(closed)
    assert "records.jsonl" in caveat


def test_the_plan_of_the_folder_must_be_that_of_the_result(closed) -> None:
    plan = json.loads((closed / "plan.json").read_text())
    plan["seed"] = 99
    (closed / "plan.json").write_text(json.dumps(plan))
    assert load_plan(closed / "plan.json").seed == 99
    with pytest.raises(Exception, match=r"plan\.json is not the plan"):
        certify(closed)
