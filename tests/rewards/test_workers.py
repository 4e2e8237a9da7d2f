"""WorkerPool: real processes, killed for real."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from tokengym.rewards.workers import MAX_RESULT, Outcome, WorkerPool

TASK = f"{Path(__file__).with_name('worker_tasks.py')}:work"
LONG = 60.0  # seconds: a limit that no test reaches


@pytest.fixture
def pool():
    pool = WorkerPool(TASK, 2, memory=1 << 30)
    yield pool
    pool.close()


def outcome(pool, *job, timeout=LONG):
    (result,) = pool.map([job], timeout)
    return result


def alive(pid):
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_results_come_in_the_order_of_the_jobs(pool):
    jobs = [("sleep", 0.02 * (5 - i)) for i in range(5)] + [("echo", {"ä": [1, None, "\ud800"]})]
    results = pool.map(jobs, LONG)
    assert [r.value for r in results] == [job[1] for job in jobs]
    assert {r.outcome for r in results} == {Outcome.DONE}
    assert pool.map([], LONG) == []


def test_workers_persist(pool):
    first = {tuple(r.value) for r in pool.map([("pids",)] * 20, LONG)}
    second = {tuple(r.value) for r in pool.map([("pids",)] * 20, LONG)}
    assert len({zygote for zygote, _ in first | second}) == 1
    assert len({worker for _, worker in first | second}) <= 2


def test_a_job_past_its_limit_is_killed_and_the_others_are_done(pool):
    results = pool.map([("spin",), ("echo", 1), ("sleep", 1000), ("echo", 2), ("spin",), ("echo", 3)], 0.5)
    timeout, done = Outcome.TIMEOUT, Outcome.DONE
    assert [r.outcome for r in results] == [timeout, done, timeout, done, timeout, done]
    assert [r.value for r in results if r.outcome is done] == [1, 2, 3]
    assert results[0].detail


@pytest.mark.parametrize(
    ("job", "expected", "detail"),
    [
        (("raise", "no"), Outcome.ERROR, "ValueError: no"),
        (("exit", 3), Outcome.ERROR, "SystemExit: 3"),
        (("object",), Outcome.ERROR, "TypeError: Object of type object is not JSON serializable"),
        (("text", MAX_RESULT), Outcome.ERROR, "bytes, more than the"),
        (("raise", "a" * 10**6), Outcome.ERROR, "ValueError: aaa"),
        (("die", 0), Outcome.CRASH, "the worker process died"),
        (("fault",), Outcome.CRASH, "the worker process died"),
    ],
)
def test_failures_are_results(pool, job, expected, detail):
    result = outcome(pool, *job)
    assert result.outcome is expected
    assert detail in result.detail
    assert len(result.detail) <= 500
    assert outcome(pool, "echo", 1).value == 1


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_memory_bomb_fails_alone(pool):
    results = pool.map([("allocate", 1 << 31), ("allocate", 1 << 20)], LONG)
    assert results[0].detail.startswith("MemoryError")
    assert results[1].value == 1 << 20


def test_large_jobs_and_results(pool):
    text = "b" * (MAX_RESULT - 1000)
    assert outcome(pool, "echo", text).value == text
    assert outcome(pool, "echo", "c" * 10**7).outcome is Outcome.ERROR


def test_nothing_leaks_into_the_terminal(pool, capfd):
    assert outcome(pool, "print").value == ""
    assert capfd.readouterr() == ("", "")


def test_an_idle_worker_that_was_killed_costs_no_job(pool):
    workers = {r.value[1] for r in pool.map([("pids",)] * 20, LONG)}
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, workers)))
    assert [r.value for r in pool.map([("echo", i) for i in range(4)], LONG)] == [0, 1, 2, 3]


def test_a_busy_worker_that_was_killed_is_a_crash(pool):
    _, pid = outcome(pool, "pids").value
    timer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    timer.start()
    # The idle worker is the first to be taken.
    results = pool.map([("sleep", 1000), ("echo", 1)], LONG)
    timer.join()
    assert [r.outcome for r in results] == [Outcome.CRASH, Outcome.DONE]


@pytest.mark.skipif(sys.platform != "linux", reason="workers die with the zygote on Linux only")
def test_a_zygote_that_was_killed_is_replaced(pool):
    zygote, worker = outcome(pool, "pids").value
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: not alive(worker))
    assert outcome(pool, "echo", 1).value == 1

    zygote, _ = outcome(pool, "pids").value
    timer = threading.Timer(0.3, os.kill, (zygote, signal.SIGKILL))
    timer.start()
    results = pool.map([("sleep", 1000), ("sleep", 1000), ("echo", 1)], LONG)
    timer.join()
    assert [r.outcome for r in results] == [Outcome.CRASH, Outcome.CRASH, Outcome.DONE]


def test_threads_share_the_workers(pool):
    values = {}

    def use(name):
        values[name] = [r.value for r in pool.map([("echo", f"{name}-{i}") for i in range(50)], LONG)]

    threads = [threading.Thread(target=use, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {name: [f"{name}-{i}" for i in range(50)] for name in range(8)}


def test_one_thread_with_a_hanging_job_leaves_the_other_worker_to_others(pool):
    pool.map([("echo", 1)], LONG)
    hanging = threading.Thread(target=pool.map, args=([("sleep", 2)], LONG))
    hanging.start()
    assert outcome(pool, "echo", 2).value == 2
    assert hanging.is_alive()
    hanging.join()


def in_child(function):
    """What `function` returns (a short string) in a forked child, which ends without any of pytest's clean-up."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(write, function().encode())
        except BaseException as e:
            os.write(write, repr(e).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


def test_a_forked_child_has_processes_of_its_own_and_leaves_the_parents_alone(pool):
    zygote, worker = outcome(pool, "pids").value
    theirs = in_child(lambda: " ".join(map(str, outcome(pool, "pids").value)))
    child_pids = [int(pid) for pid in theirs.split()]
    assert zygote not in child_pids
    assert outcome(pool, "pids").value == [zygote, worker]
    wait_until(lambda: not any(map(alive, child_pids)))
    assert in_child(lambda: str(pool.close())) == "None"
    assert outcome(pool, "pids").value == [zygote, worker]


def test_a_fork_while_another_thread_is_in_map(pool):
    pool.map([("echo", 1)], LONG)
    thread = threading.Thread(target=pool.map, args=([("sleep", 0.5)] * 4, LONG))
    thread.start()
    assert in_child(lambda: outcome(pool, "echo", "ok").value) == "ok"
    thread.join()


def test_pickle_drops_the_processes(pool):
    zygote, _ = outcome(pool, "pids").value
    copy = pickle.loads(pickle.dumps(pool))
    assert outcome(copy, "pids").value[0] != zygote
    copy.close()


def test_close_ends_all_processes_and_the_next_map_starts_new_ones(pool):
    pids = outcome(pool, "pids").value
    pool.close()
    assert not any(map(alive, pids))
    assert outcome(pool, "echo", 1).value == 1


def test_a_pool_that_is_collected_ends_its_processes():
    pool = WorkerPool(TASK, 1)
    pids = outcome(pool, "pids").value
    del pool
    wait_until(lambda: not any(map(alive, pids)))


def test_an_interrupted_map_leaves_a_pool_that_works(pool):
    pool.map([("echo", 1)], LONG)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.map([("sleep", 1000)] * 3, LONG)
    timer.join()
    assert [r.value for r in pool.map([("echo", i) for i in range(4)], LONG)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("math:no_such_function", "AttributeError"),
        ("/no/such/file.py:f", "FileNotFoundError"),
    ],
)
def test_a_task_that_cannot_be_imported_is_an_error_of_the_program(task, message):
    with pytest.raises(RuntimeError, match=message):
        WorkerPool(task, 1).map([()], LONG)


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        WorkerPool(TASK, 0)


def run(script, *options):
    """Start Python on a script without a `__main__` guard, which first prints the pids of its zygote and a worker."""
    source = f"""
        from tokengym.rewards.workers import WorkerPool
        pool = WorkerPool({TASK!r}, 1)
        print(*pool.map([("pids",)], {LONG})[0].value, flush=True)
    """
    source = textwrap.dedent(source) + textwrap.dedent(script)
    process = subprocess.Popen(
        [sys.executable, *options, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def test_a_killed_parent_leaves_no_orphan():
    process, pids = run(f"pool.map([('spin',)], {LONG})")
    assert all(map(alive, pids))
    process.kill()
    process.communicate()
    wait_until(lambda: not any(map(alive, pids)))


def test_the_end_of_the_interpreter_ends_all_without_a_word():
    process, pids = run("", "-X", "dev", "-W", "error")
    out, err = process.communicate()
    assert (out, err, process.returncode) == ("", "", 0)
    assert not any(map(alive, pids))


def test_ctrl_c_is_answered_by_the_users_process_alone():
    process, pids = run("""
        import os, time
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.2)
            print(*pool.map([("pids",)], 60)[0].value)
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for pid in (*pids, process.pid):
        os.kill(pid, signal.SIGINT)
    out, err = process.communicate()
    assert [int(pid) for pid in out.split()] == pids
    assert err == ""
