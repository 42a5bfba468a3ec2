"""The real command `sawtooth monitor` over HTTP: every address, every kind of bad folder, and who may look."""

from __future__ import annotations

import json
import shutil
import signal
import time

import httpx
import pytest

from tests.monitor_run import PROTOCOL, QUESTIONS, all_read, make_run, metrics_line, monitor, write_step


@pytest.fixture(scope="module")
def home(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("home")
    make_run(folder / "one", tokenizer)
    return folder


@pytest.fixture(scope="module")
def api(home):
    with monitor(home) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        wait_for_index(client)
        yield client


def wait_for_index(client, run="one"):
    for _ in range(200):
        state = get(client, "/api/sources", run=run)["indexing"]
        if state["files"] == state["of"]:
            return
    raise AssertionError(state)


def get(client, path, code=200, **parameters):
    answer = client.get(path, params=parameters)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_runs_and_curves(api, home):
    (run,) = all_read(lambda: get(api, "/api/runs"))
    assert (run["id"], run["state"], run["step"], run["max_steps"]) == ("one", "running", 6, 30)
    assert run["protocol"]["max_rounds"] == 3 and run["latest"]["accuracy/mean"] == pytest.approx(0.6)
    charts = get(api, "/api/charts", runs="one")["charts"]
    assert {"accuracy", "reward"} <= {chart["id"] for chart in charts}
    named = {name for chart in charts for name in chart["names"]}
    logged = json.loads(metrics_line(1)).keys() - {"stage", "step", "time"}
    assert logged <= named  # nothing that was logged is out of sight
    drawn = api.get("/api/curves", params={"runs": "one", "name": ["accuracy/mean", "nothing"], "from": 2, "to": 4})
    assert drawn.json()["curves"]["one"]["accuracy/mean"]["x"] == [2, 3, 4]
    assert drawn.json()["curves"]["one"]["nothing"]["x"] == []
    same = api.get(str(drawn.url), headers={"If-None-Match": drawn.headers["etag"]})
    assert same.status_code == 304 and not same.content
    with (home / "one" / "metrics.jsonl").open("a") as file:
        file.write(metrics_line(7))
    more = api.get(str(drawn.url), headers={"If-None-Match": drawn.headers["etag"]})
    assert more.status_code == 200
    assert get(api, "/api/warnings", runs="one") == {"warnings": []}
    assert "max_rounds" in get(api, "/api/config", run="one")["text"]


def test_episodes_with_filters(api):
    everything = get(api, "/api/episodes", run="one", source="train")
    assert everything["total"] == 6 * 12 and len(everything["rows"]) == 50 and everything["rows"][0]["step"] == 5
    malformed = get(api, "/api/episodes", run="one", source="train", stop="malformed,truncated", step_from=2, step_to=3)
    assert malformed["total"] == 4
    right = get(api, "/api/episodes", run="one", source="train", correct="right", question="k=3 L+4")
    assert right["total"] == sum(min(3, step // 2 + 1) for step in range(6))
    found = get(api, "/api/episodes", run="one", source="eval/rl_held_out", text="RARE needle 2")
    while found["total"] is None:
        found = get(api, "/api/episodes", run="one", source="eval/rl_held_out", text="RARE needle 2",
                    after=found["search"]["after"])  # fmt: skip
    assert found["total"] == 3 and "rare needle 2" in found["rows"][0]["snippet"]
    sources = {s["source"]: s for s in get(api, "/api/sources", run="one")["sources"]}
    assert sources["train"]["steps"] == [0, 5] and sources["eval/sft_held_out"]["episodes"] == 12


def test_a_group_and_its_rounds(api, tokenizer):
    group = get(api, "/api/group", run="one", source="train", step=4, group="0")
    assert [e["correct"] for e in group["episodes"]] == [1, 1, 0, 0]
    assert any("mfrac" in str(part.get("math")) for part in group["question"])
    first = group["episodes"][0]
    assert first["rewards"] == {"answer": 1.0, "short": 0.5} and first["advantage"] == 0.25
    rounds = first["rounds"]
    assert [r["kind"] for r in rounds] == ["summary", "summary", "conclusion"]
    added = [c["text"] for c in rounds[1]["summary_changes"] if c["op"] == "added"]
    assert "m=9" in "".join(added)
    assert rounds[0]["history_tokens"] == 0 and rounds[1]["history_tokens"] > 0
    one = get(api, "/api/round", run="one", source="train", step=4, episode=0, round=1)
    assert "".join(p["text"] for p in one["prompt"]) == tokenizer.decode(
        PROTOCOL.render_prompt(tokenizer, QUESTIONS[0], "so far: l=7 and $x^2$")
    )
    assert one["prompt"][1] == {"kind": "history", "text": "<history>\nso far: l=7 and $x^2$\n</history>"}
    assert len(one["tokens"]) == rounds[1]["completion_tokens"]
    assert one["tokens"][3]["logprob"] == pytest.approx(-0.375)
    malformed = get(api, "/api/group", run="one", source="train", step=4, group="2")["episodes"][3]
    assert malformed["rounds"][-1]["fault"] == "empty_summary"
    row = get(api, "/api/episodes", run="one", source="train", group="0", step_from=4, step_to=4)["rows"][0]
    followed = get(api, "/api/question", run="one", qid=row["qid"])
    right = [s["right"] for s in followed["steps"] if s["source"] == "train"]
    assert right == [0, 0, 1, 1, 2, 2]


def test_two_checkpoints_compared(api):
    compared = get(api, "/api/compare", a="one:train:0-1", b="one:train:4-5")
    assert compared["shared"] == 3 and compared["counts"] == {"solved": 3, "lost": 0, "both": 0, "neither": 0}
    assert compared["a"]["accuracy"] == pytest.approx(1 / 12) and compared["b"]["accuracy"] == pytest.approx(7 / 12)
    stages = get(api, "/api/compare", a="one:eval/sft_held_out", b="one:eval/rl_held_out")
    assert stages["difference"]["mean"] == pytest.approx(9 / 12 - 1 / 12)


@pytest.mark.parametrize(
    ("path", "parameters", "code", "message"),
    [
        ("/api/curves", {"runs": "two", "name": "x"}, 404, "no run 'two'; known: one"),
        ("/api/curves", {"runs": "one", "name": "x", "points": 0}, 422, "points"),
        ("/api/episodes", {"run": "one", "correct": "maybe"}, 422, "correct"),
        ("/api/episodes", {"run": "one", "sort": "x; drop table"}, 422, "sort"),
        ("/api/episodes", {"run": "one", "text": "x", "after": "nonsense"}, 422, ""),
        ("/api/group", {"run": "one", "source": "../../etc", "step": 0, "group": "0"}, 404, ""),
        ("/api/group", {"run": "one", "source": "train", "step": 99, "group": "0"}, 404, "99"),
        ("/api/round", {"run": "one", "source": "train", "step": 0, "episode": 0, "round": 9}, 404, ""),
        ("/api/round", {"run": "one", "source": "train", "step": 0, "episode": -1, "round": 0}, 404, ""),
        ("/api/question", {"run": "one", "qid": "nothing"}, 422, "not the id of a question"),
        ("/api/question", {"run": "one", "qid": "0" * 16}, 404, ""),
        ("/api/compare", {"a": "one", "b": "one:train:9-x"}, 422, ""),
        ("/api/config", {"run": "../one"}, 404, ""),
    ],
)
def test_mistakes_are_answered_in_one_line(api, path, parameters, code, message):
    error = get(api, path, code, **parameters)["error"]
    assert message in error and "\n" not in error and "Traceback" not in error


def test_folders_that_are_broken_gone_or_foreign(tmp_path, tokenizer):
    home = tmp_path / "runs"
    make_run(home / "good", tokenizer, steps=2)
    bad = make_run(home / "bad", tokenizer, steps=3)
    whole = (bad / "episodes" / "train_000001.parquet").read_bytes()
    (bad / "episodes" / "train_000001.parquet").write_bytes(whole[: len(whole) // 2])
    (bad / "episodes" / "train_000009.parquet").write_bytes(b"no parquet at all")
    (bad / "episodes" / "train_000007.tmp").write_bytes(b"PAR1")
    (bad / "metrics.jsonl").write_text(metrics_line(1) + metrics_line(2)[:30])
    (tmp_path / "photos").mkdir()
    with monitor(home, tmp_path / "photos", tmp_path / "nowhere") as (address, process):
        with httpx.Client(base_url=address, timeout=30) as client:
            states = {run["id"]: run["state"] for run in all_read(lambda: get(client, "/api/runs"))}
            assert states == {"bad": "running", "good": "running", "photos": "foreign", "nowhere": "missing"}
            messages = {run["id"]: run["message"] for run in all_read(lambda: get(client, "/api/runs"))}
            assert "incomplete" in messages["bad"]
            wait_for_index(client, "bad")
            found = get(client, "/api/episodes", run="bad", source="train")
            assert found["total"] == 24
            assert sorted(f["file"] for f in found["faults"]) == [
                "episodes/train_000001.parquet",
                "episodes/train_000009.parquet",
            ]
            assert get(client, "/api/episodes", run="photos")["rows"] == []
            assert get(client, "/api/sources", run="nowhere")["sources"] == []
            (bad / "episodes" / "train_000001.parquet").write_bytes(whole)  # its writer has come to the end
            write_step(bad / "episodes", tokenizer, 3)
            for _ in range(600):
                found = get(client, "/api/episodes", run="bad", source="train")
                if found["total"] == 48 and len(found["faults"]) == 1:
                    break
                time.sleep(0.1)
            assert found["total"] == 48 and [f["file"] for f in found["faults"]] == ["episodes/train_000009.parquet"]
            shutil.rmtree(home / "good")
            for _ in range(600):
                states = {run["id"]: run["state"] for run in get(client, "/api/runs")["runs"]}
                if states["good"] == "missing":
                    break
                time.sleep(0.1)
            assert states["good"] == "missing"
            assert client.get(
                "/api/group", params={"run": "good", "source": "train", "step": 0, "group": "0"}
            ).status_code in (404, 410)
            assert get(client, "/api/curves", runs="good", name="loss")["curves"]["good"]["loss"]["x"] == [1, 2]
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        assert "Traceback" not in process.stdout.read()


def test_only_this_machine_may_look(api):
    assert api.get("/").status_code == 200
    for host in ("evil.example", "127.evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        refused = api.get("/api/runs", headers={"Host": host})
        assert refused.status_code == 421 and "localhost" in refused.json()["error"], host
    for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
        assert api.get("/api/runs", headers={"Host": host}).status_code == 200
    answer = api.get("/")
    assert "script-src" not in answer.headers["content-security-policy"]
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert api.get("/vendor/plotly.min.js").status_code == 200
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/vendor/../__init__.py"):
        assert api.get(path).status_code == 404
    assert api.post("/api/runs").status_code == 405


def test_elsewhere_a_token_is_needed(home):
    with monitor(home, "--host", "0.0.0.0") as (address, _):
        base, token = address.split("?token=")
        base = base.replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=base, timeout=60) as client:
            assert client.get("/api/runs").status_code == 401
            assert client.get("/").status_code == 401
            assert client.get("/?token=wrong").status_code == 401
            assert client.get("/api/runs", headers={"Authorization": f"Bearer {token}"}).status_code == 200
            entered = client.get(f"/?token={token}")
            assert entered.status_code == 303 and entered.headers["location"] == "/"
            assert "httponly" in entered.headers["set-cookie"].lower()
            assert client.get("/api/runs").status_code == 200
            assert client.get("/api/runs", headers={"Host": "my.machine"}).status_code == 200
            astray = httpx.get(f"{base.rstrip('/')}//evil.example/?token={token}", follow_redirects=False, timeout=60)
            assert astray.headers["location"] == "/evil.example/"


def test_one_odd_run_hides_no_other(tmp_path, tokenizer):
    make_run(tmp_path / "good", tokenizer, steps=2)
    configs = {"a": "rewards: 5", "b": "when: 2026-11-31", "c": "rl: {steps_per_generation: .nan}", "d": "- 1\n- 2"}
    for name, text in configs.items():
        make_run(tmp_path / name, tokenizer, steps=1)
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "a" / "metrics.jsonl").write_text(metrics_line(1).replace('"loss"', '"\\ud800"'))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    names = ",".join(["good", *configs])
    with monitor(tmp_path) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        states = {run["id"]: run["state"] for run in all_read(lambda: get(client, "/api/runs"))}
        assert states == dict.fromkeys(names.split(","), "running")
        assert get(client, "/api/warnings", runs=names)["warnings"] == []
        assert get(client, "/api/charts", runs=names)["charts"]


def test_a_port_that_is_taken(home, capsys):
    from rl.app.cli import main

    with monitor(home) as (address, _):
        port = address.rstrip("/").rpartition(":")[2]
        assert main(["monitor", str(home), "--port", port]) == 2
        error = capsys.readouterr().err
        assert f"can't listen on 127.0.0.1:{port}" in error and error.count("\n") == 1
    assert main(["monitor", "--prot=1"]) == 2
    assert "unknown argument" in capsys.readouterr().err
