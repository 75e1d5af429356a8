"""Turns among clients, whatever each has waiting."""

import threading
from dataclasses import dataclass

from mobile_runtime.serve.fair_queue import FairQueue


@dataclass(eq=False)
class Asked:
    client: str
    number: int


def filled(*clients):
    queue = FairQueue()
    requests = [Asked(client, n) for n, client in enumerate(clients)]
    for request in requests:
        queue.put(request)
    return queue, requests


def order(queue):
    return [queue.take().number for _ in range(len(queue))]


def test_clients_take_turns_and_each_keeps_its_order():
    queue, _ = filled(*"aaaabbc")
    assert order(queue) == [0, 4, 6, 1, 5, 2, 3]


def test_a_client_that_comes_later_waits_for_one_request_of_each_other():
    queue, _ = filled(*"aaaa")
    assert queue.take().number == 0
    queue.put(Asked("b", 9))
    assert order(queue) == [1, 9, 2, 3]


def test_a_request_that_left_is_not_taken():
    queue, requests = filled(*"aab")
    assert queue.remove(requests[0]) and not queue.remove(requests[0])
    assert queue.remove(requests[2])
    assert order(queue) == [1]


def test_the_last_request_of_who_has_most_gives_way():
    queue, requests = filled(*"aaab")
    assert queue.give_way("a") is None, "nobody has more than this one"
    assert queue.give_way("c") is requests[2]
    assert queue.give_way("c") is requests[1]
    assert queue.give_way("c") is None, "then each would have as many"
    assert FairQueue().give_way("a") is None


def test_close_wakes_who_waits_and_gives_what_is_left():
    queue = FairQueue()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    assert queue.close() == []
    thread.join(10)
    assert taken == [None]
    queue, requests = filled(*"ab")
    assert queue.close() == requests and queue.take() is None
    assert not queue.put(Asked("a", 3)) and len(queue) == 0
