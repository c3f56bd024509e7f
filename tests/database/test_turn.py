"""The lock that SQLite's writers take in turn is fair, and never lost."""

import threading
import time

from exporter.database.turn import FairLock


def test_a_thread_that_takes_the_lock_again_at_once_queues_last() -> None:
    lock = FairLock()
    stop = threading.Event()
    taken = 0

    def hog() -> None:
        nonlocal taken
        while not stop.is_set():
            assert lock.acquire(10)
            taken += 1
            time.sleep(0.002)
            lock.release()

    thread = threading.Thread(target=hog)
    thread.start()
    try:
        for _ in range(20):
            time.sleep(0.003)
            before = taken
            assert lock.acquire(10)
            # The other thread may finish the turn that it has, and may have begun another before
            # this thread queued.
            assert taken <= before + 2
            lock.release()
    finally:
        stop.set()
        thread.join()


def test_a_waiter_that_gives_up_does_not_keep_the_lock() -> None:
    lock = FairLock()
    assert lock.acquire(0)
    assert not lock.acquire(0.01)
    lock.release()
    assert lock.acquire(0)


def test_a_lock_handed_to_a_waiter_that_gives_up_is_not_lost() -> None:
    lock = FairLock()

    def take() -> None:
        for _ in range(300):
            if lock.acquire(0.0005):
                time.sleep(0.0005)
                lock.release()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lock.acquire(1)
