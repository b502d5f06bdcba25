"""A site from nothing: the first key, a project that is a home of its own, a queue."""


def test_the_first_key_opens_its_project_and_nothing_opens_without_one(client, site, first_key):
    caller = site.check(first_key)
    assert caller.project.startswith("proj_")
    assert (site.top.home / "projects" / caller.project / "luthier.db").exists()
    assert site.found() is None
    assert client.get("/luthier/v1/jobs").json() == {"object": "list", "data": [], "has_more": False}
    assert client.get("/luthier/v1/jobs", headers={"authorization": "Bearer no"}).status_code == 401
    assert client.get("/luthier/v1/jobs", headers={"openai-project": "proj_other"}).status_code == 401


def test_the_same_request_twice_is_one_job(site, first_key):
    caller = site.check(first_key)
    one = site.jobs.submit(caller, "fine_tune", {"n": 1}, once=("a", "0" * 64))
    two = site.jobs.submit(caller, "fine_tune", {"n": 1}, once=("a", "0" * 64))
    assert one.id == two.id
    assert [job.id for job in site.jobs.list(caller)[0]] == [one.id]
    assert site.jobs.ask(caller, one.id, "cancel").state == "cancelled"
    assert [event.data["message"] for event in site.jobs.events(caller, one.id)] == [
        "Created job",
        "Job cancelled",
    ]
