"""The example's server answers while its weights arrive, says how far it is, and ends as it should."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ...servers.fault_proxy import Fault

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

PROMPTS = [[(7 * start + 31 * at) % 1024 for at in range(3 + start % 5)] for start in range(20)]
TOKENS = 4
SLOW, SLOWER = 2.5e6, 5e5  # bytes per second: 8 and 40 seconds for the model
ENDS_SECONDS = 10.0


@pytest.fixture(scope="module")
def expected(folder):
    """What transformers' own load and `generate` make of each prompt."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.inference_mode():
        return [
            model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)[0, len(prompt) :].tolist()
            for prompt in PROMPTS
        ]


def tokens_of(answer):
    status, found = answer
    assert status == 200, found
    return found["choices"][0]["token_ids"]


def test_readiness_flips_once_when_a_completion_would_be_answered(behind_link, serve, expected):
    server = serve(behind_link(SLOW))
    seen, states = [], []
    while len(seen) < 2 or seen[-2:] != [200, 200]:
        status, said = server.get("/health/ready")
        seen += [status, server.complete(PROMPTS[0])[0]]
        states.append(said["state"])
        assert server.get("/health/live")[0] == 200
    assert seen == sorted(seen, reverse=True), "a server that was ready refused, or one that answered was not ready"
    assert seen[0] == 503
    assert states[0] == "started"
    assert states[-1] in ("can serve", "all resident")  # the first completion may well end with the last byte
    server.wait_for("all resident")
    assert tokens_of(server.complete(PROMPTS[0], TOKENS)) == expected[0]


def test_200_requests_during_the_load_are_all_answered_rightly(behind_link, serve, expected):
    server = serve(behind_link(SLOW))
    server.wait_for("can serve")
    with ThreadPoolExecutor(200) as clients:
        answers = [clients.submit(server.complete, PROMPTS[number % 20], TOKENS) for number in range(200)]
        server.wait_for_open(200)
        assert server.get("/health/ready") == (200, {"state": "can serve"}), "the load was over too early"
        assert [tokens_of(answer.result()) for answer in answers] == expected * 10
    metrics = server.metrics()
    assert metrics["completions_total 200"] == 200
    assert server.phase("first_token") > server.phase("first_byte") > server.phase("imports") > 0
    phases = [value for name, value in metrics.items() if name.startswith("streamload_phase_seconds ")]
    assert sum(phases) == pytest.approx(metrics["streamload_cold_start_seconds"])
    assert metrics["streamload_load_requests_total model"] > 0
    assert (
        metrics["streamload_layer_timestamp_seconds model.layers.0 model"]
        > metrics["streamload_process_start_timestamp_seconds"]
    )


def test_a_server_that_loads_first_is_ready_only_then(behind_link, serve, expected):
    server = serve(behind_link(SLOW), "--ready-at", "1")
    assert server.complete(PROMPTS[0])[0] == 503
    assert server.wait_for("can serve", "all resident")[0] == 200
    metrics = server.metrics()
    assert metrics["streamload_load_bytes_resident model"] == metrics["streamload_load_bytes model"] > 0
    assert tokens_of(server.complete(PROMPTS[0], TOKENS)) == expected[0]


@pytest.mark.parametrize("what", ["truncated", "refused"])
def test_a_model_that_cannot_be_opened_is_said_and_nothing_hangs(published, origin, fault_proxy, folder, serve, what):
    shard = sorted(folder.glob("*.safetensors"))[1]
    if what == "truncated":
        origin.put(f"{published}/{shard.name}", shard.read_bytes()[:-1000])
    elif what == "refused":
        fault_proxy.set(Fault("status", status=403, times=0))
    server = serve(fault_proxy.url + published)
    assert server.wait_for("failed")[0] == 503
    _assert_failed(server, shard.name if what == "truncated" else "")


@pytest.mark.parametrize("what", ["refused", "changed"])
def test_a_load_that_fails_under_requests_answers_them_with_the_reason(
    behind_link, published, origin, fault_proxy, folder, serve, what
):
    server = serve(behind_link(SLOWER))
    server.wait_for("can serve")
    last = sorted(folder.glob("*.safetensors"))[-1]
    with ThreadPoolExecutor(8) as clients:
        waiting = [clients.submit(server.complete, prompt) for prompt in PROMPTS[:8]]
        if what == "refused":
            fault_proxy.set(Fault("status", status=403, times=0))
        else:
            origin.put(f"{published}/{last.name}", last.read_bytes()[::-1])
        answers = [one.result() for one in waiting]
    assert {status for status, _ in answers} == {503}, answers
    server.wait_for("failed")
    _assert_failed(server, last.name if what == "changed" else "")


def _assert_failed(server, named):
    status, said = server.get("/health/ready")
    assert (status, said["state"]) == (503, "failed")
    assert said["reason"]
    assert named in said["reason"]
    assert server.get("/health/live") == (503, said)
    status, answer = server.complete(PROMPTS[0])
    assert status == 503
    assert said["reason"] in answer["error"]["message"]
    assert server.metrics()["load_state failed"] == 1


@pytest.mark.parametrize("state", ["started", "can serve"])
def test_sigterm_during_the_load_ends_the_process(behind_link, serve, state):
    server = serve(behind_link(SLOWER))
    server.wait_for(state)
    with ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(server.complete, prompt) for prompt in PROMPTS[:4]] if state == "can serve" else []
        server.wait_for_open(len(waiting))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(ENDS_SECONDS) in (0, -signal.SIGTERM)
        assert all(one.result()[0] == 503 for one in waiting)


def test_a_local_model_takes_text_and_refuses_what_it_cannot_do(folder, tmp_path, serve, expected):
    words = {f"w{number}": number for number in range(1024)}
    backend = pytest.importorskip("tokenizers")
    plain = backend.Tokenizer(backend.models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = backend.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(tmp_path / "tokenizer")
    server = serve(folder, "--tokenizer", str(tmp_path / "tokenizer"))
    server.wait_for("all resident")
    status, answer = server.complete(" ".join(f"w{token}" for token in PROMPTS[1]), TOKENS, model="mine")
    assert tokens_of((status, answer)) == expected[1]
    assert answer["choices"][0]["text"].split() == [f"w{token}" for token in expected[1]]
    assert answer["usage"] == {"prompt_tokens": len(PROMPTS[1]), "completion_tokens": TOKENS}
    for prompt, more in [([], {}), ([1024], {}), ([-1], {}), ([0.5], {}), ([1], {"temperature": 0.7}), ([1], {"x": 1})]:
        status, answer = server.complete(prompt, **more)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error"), (prompt, more)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(ENDS_SECONDS) in (0, -signal.SIGTERM)
