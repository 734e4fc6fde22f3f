"""The channel: answers arrive whole, and a worker that stops half-way blocks nobody."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from tyk_pump.channel import Channel, CoordinatorGone
from tyk_pump.worker import outcome


def make() -> Channel:
    """Return a channel as the supervisor makes them."""
    return Channel(multiprocessing.get_context("spawn"), 8)


def test_answers_arrive_whole_and_in_order() -> None:
    """Several answers in the pipe are several messages."""
    channel = make()
    end = channel.worker_end()
    sent: list[outcome.Message] = [outcome.Ready()]
    sent += [outcome.Trouble("r", 1, False), outcome.Stopped()]
    for message in sent:
        end.answer(message)
    assert channel.receive() == sent
    assert channel.receive() == []
    channel.close()


def test_half_an_answer_does_not_block() -> None:
    """A worker that was frozen while it answered is heard when it goes on."""
    channel = make()
    end = channel.worker_end()
    end.answer(outcome.Trouble("reason", 1, False))
    data = os.read(channel.answers.fileno(), 4096)
    fd = end._answers.fileno()
    os.write(fd, data[:11])
    assert channel.receive() == []
    os.write(fd, data[11:])
    assert channel.receive() == [outcome.Trouble("reason", 1, False)]
    channel.close()


def test_a_worker_learns_that_nobody_listens() -> None:
    """An answer to a closed channel is no error of the pump."""
    channel = make()
    end = channel.worker_end()
    channel.close()
    with pytest.raises(CoordinatorGone):
        end.answer(outcome.Ready())
