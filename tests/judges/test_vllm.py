"""A real endpoint: vLLM serves the built-in model, from an environment of its own (benchmarks/peers/vllm.txt)."""

import math
import os
import socket
import subprocess
import time

import httpx2
import pytest

from plaudit.config import EndpointSettings
from plaudit.errors import JudgeError
from plaudit.judges.endpoint import Endpoint, Question, Reply, Unanswered

pytestmark = pytest.mark.slow
PYTHON = "PLAUDIT_VLLM_PYTHON"
START_SECONDS = 300
PAIRS = [
    ("How do I keep tea warm?", "Put it into a thermos flask.", "Tea is a plant from Asia."),
    ("What is 2 + 2?", "2 + 2 is 4.", "I like trains."),
    ("Say something kind.", "You are doing well, and it shows.", "No."),
    ("Why is the sky blue?", "Air scatters blue light more than red.", "Because it is."),
]


@pytest.fixture(scope="module")
def folder():
    from plaudit.models.loading import BUILT_IN, _resolve

    return _resolve(BUILT_IN)


@pytest.fixture(scope="module")
def address(folder, tmp_path_factory):
    """Where the server is, once it answers."""
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"{PYTHON} is not set: name the Python of an environment made as benchmarks/peers/vllm.txt says")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "smol",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--dtype", "float32", "--enforce-eager",
    ]  # fmt: skip
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | quiet
    with open(log, "w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        until = time.monotonic() + START_SECONDS
        while not _healthy(port):
            if server.poll() is not None or time.monotonic() > until:
                pytest.fail(f"vLLM did not start:\n{log.read_text()[-3000:]}")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _healthy(port):
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def comparison(prompt, first, second):
    text = (
        f"Question: {prompt}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\nWhich answer is better? Reply with A or B."
    )
    return Question([{"role": "user", "content": text}], max_tokens=1, top_log_probs=20)


def settings(address, **changes):
    return EndpointSettings(**{"base_url": address, "model": "smol", "attempts": 2, **changes})


def test_comparisons_with_log_probs_agree_with_the_model_itself(address, folder, tmp_path):
    """The alternatives of the first token are those of the model under its chat template, in nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = [comparison(*pair) for pair in PAIRS] + [comparison(prompt, b, a) for prompt, a, b in PAIRS]
    endpoint = Endpoint(settings(address), tmp_path)
    replies = dict(endpoint.ask(asked))
    assert all(isinstance(reply, Reply) for reply in replies.values())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for place, question in enumerate(asked):
        reply = replies[place]
        assert reply.completion_tokens == 1
        assert reply.text == reply.log_probs[0][0]
        assert len(reply.log_probs) >= 20
        assert sum(math.exp(value) for _, value in reply.log_probs) <= 1 + 1e-4
        ids = tokenizer.apply_chat_template(question.messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        assert reply.prompt_tokens == len(ids)
        with torch.no_grad():
            own = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).topk(20)
        ours = {tokenizer.decode([token]): value for token, value in zip(own.indices, own.values.tolist(), strict=True)}
        for token, value in reply.log_probs[:5]:
            assert value == pytest.approx(ours[token], abs=0.02)
    again = Endpoint(settings(address), tmp_path)
    kept = dict(again.ask(asked))
    assert [kept[place].log_probs for place in kept] == [replies[place].log_probs for place in kept]
    assert (again.spent.requests, again.spent.cached) == (len(asked), len(asked))


def test_samples_differ_by_seed_and_agree_for_one(address):
    ask = Question([{"role": "user", "content": "Tell me a story."}], max_tokens=16, temperature=1.0)
    texts = []
    for seed in (1, 1, 2):
        sampled = Question(ask.messages, ask.max_tokens, ask.temperature, seed=seed)
        texts.append(dict(Endpoint(settings(address), None).ask([sampled]))[0].text)
    assert texts[0] == texts[1] != texts[2]


def test_what_it_refuses(address, tmp_path):
    long = Question([{"role": "user", "content": "tea " * 3000}], max_tokens=1)
    endpoint = Endpoint(settings(address, concurrency=1), tmp_path)
    outcomes = dict(endpoint.ask([comparison(*PAIRS[0]), long]))
    assert isinstance(outcomes[0], Reply)
    assert isinstance(outcomes[1], Unanswered)
    assert outcomes[1].reason == "refused (400)"
    assert "1024" in outcomes[1].detail
    with pytest.raises(JudgeError, match="serves the model `another`"):
        list(Endpoint(settings(address, model="another"), None).ask([comparison(*PAIRS[0])]))
