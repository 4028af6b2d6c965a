"""Promises: connections may be cut at any time, all of them and again and again, and the server may
not answer for a while: the worker goes on, the same process, and hears tickets as before."""

import time

from dgq.worker.fleet.app import make_app, queue_name
from tests.worker.faults.fleet import Repeatedly, make_jobs, wait_for
from tests.worker.servers import RealServer


def assert_hears_tickets(fleet, worker):
    """It is this worker's Celery that takes the next ticket: nobody else is there to do so."""
    assert worker.process.poll() is None, worker.err
    jobs = make_jobs(10)
    fleet.finish(fleet.submit(jobs), jobs)


def test_all_connections_are_cut_again_and_again(fleet, server):
    """Those of the pool, those that wait for tickets, and those of remote control."""
    fleet = fleet(shard_jobs=16)
    worker = fleet.start(1, "--stub-seconds", "0.01")
    admin = server.client()
    jobs = make_jobs(500)
    batch = fleet.submit(jobs)

    def cut():
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    with Repeatedly(cut, 0.3) as cuts:
        fleet.finish(batch, jobs)
        assert cuts.count >= 3
    assert_hears_tickets(fleet, worker)


def test_connections_are_cut_while_it_idles(fleet, server):
    fleet = fleet()
    worker = fleet.start()
    admin = server.client()
    for kind in ("pubsub", "normal", "pubsub", "normal"):
        admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        time.sleep(0.2)
    assert_hears_tickets(fleet, worker)


def test_the_server_pauses(fleet, server):
    """For longer than a lease, than calls of the ledger wait, and than Celery waits for a ticket."""
    fleet = fleet(shard_jobs=16)
    worker = fleet.start(1, "--stub-seconds", "0.01")
    jobs = make_jobs(300)
    batch = fleet.submit(jobs)
    fleet.wait_for_rows(batch, 10)
    server.client().execute_command("CLIENT", "PAUSE", 12_500, "ALL")
    fleet.finish(batch, jobs)
    assert_hears_tickets(fleet, worker)


def test_a_broker_of_its_own_is_waited_for(fleet, server, tmp_path):
    """Work waits, the ledger answers, the broker does not: a new process could do no more."""
    fleet = fleet(stall_timeout_s=2)
    broker = RealServer(tmp_path / "broker")
    worker = fleet.start(broker_url=f"{broker.url}/0")
    jobs = make_jobs(10)
    batch = fleet.submit(jobs)
    wait_for(lambda: "waiting for the broker" in worker.err)
    time.sleep(4)
    assert worker.process.poll() is None, worker.err
    with broker:
        fleet.finish(batch, jobs)
    assert worker.err.count("waiting for the broker") == 1


def test_a_worker_that_hears_nothing_ends_itself(fleet, server):
    """Work waits, the broker has its tickets, and they do not come through."""
    fleet = fleet(stall_timeout_s=3)
    worker = fleet.start()
    app = make_app(fleet.client.settings)
    name = queue_name("default")
    wait_for(lambda: app.control.cancel_consumer(name, reply=True))
    fleet.submit(make_jobs(10))
    assert worker.wait() == 70
    assert "no ticket has come through" in worker.err
    app.close()
