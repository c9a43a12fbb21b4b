"""Commands from another shell, beside a running Handrail and without `make`."""

import re

from config.schedule import JOBS
from tests.flows.running import api, make_key, manage, seen, sign_in
from tests.launcher.instance import Instance


def test_a_key_made_in_another_shell_works_at_once(handrail: Instance) -> None:
    key = make_key(handrail, "commands")
    assert re.fullmatch(r"hr_[0-9a-f]{12}_[\w-]{43}", key)
    with api(handrail, key) as client:
        made = client.post("/api/v1/executions", json={"agent": "clerk", "task": "count"})
        assert made.status_code == 201
        done = client.post(f"/api/v1/executions/{made.json()['id']}/complete", json={"output": {"answer": 42}})
        assert (done.status_code, done.json()["status"]) == (200, "completed")
    with api(handrail, make_key(handrail, "others")) as client:
        assert client.get(f"/api/v1/executions/{made.json()['id']}").status_code == 404


def test_a_person_made_in_another_shell_signs_in_and_sees_their_project_alone(handrail: Instance) -> None:
    with api(handrail, make_key(handrail, "commands")) as client:
        client.post("/api/v1/executions", json={"agent": "bookkeeper", "task": "books"}).raise_for_status()
    password = manage(handrail, "create_operator", "ada@example.org", "--project", "commands", "--name", "Ada")
    assert len(password) >= 12
    with sign_in(handrail, "ada@example.org", password) as browser:
        assert "bookkeeper" in seen(browser, "/executions")
    stranger = manage(handrail, "create_operator", "bob@example.org", "--project", "others")
    with sign_in(handrail, "bob@example.org", stranger) as browser:
        assert "bookkeeper" not in seen(browser, "/executions")


def test_the_crank_turns_beside_the_workers(handrail: Instance) -> None:
    words = manage(handrail, "tick", "--all").splitlines()
    assert sorted(words) == sorted(f"{job.name}: ok" for job in JOBS)
    # What is not due is left alone; the workers may have done any of it by now.
    assert set(manage(handrail, "tick").splitlines()) <= set(words)
