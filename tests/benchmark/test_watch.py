"""Parts add up to the whole, and the backward pass is told apart."""

import time

import torch

from knet.benchmark.watch import Clock, Watch


class Steps(Clock):
    """A clock that is moved by hand."""

    units = ("steps",)
    now = 0

    def read(self):
        return (self.now,)


def test_a_part_interrupts_the_one_around_it():
    clock = Steps()
    watch = Watch(clock)

    def spend(steps):
        clock.now += steps

    inner = watch.timed("inner")(spend)
    with watch.part("outer"):
        spend(1)
        inner(10)
        spend(2)
        inner(20)
    spend(1000)  # nobody's
    with watch.part("later"):
        spend(5)
    assert watch.parts() == {"outer": {"steps": 3}, "inner": {"steps": 30}, "later": {"steps": 5}}
    assert watch.parts() == {}


class Slow(torch.autograd.Function):
    """The identity, whose backward takes some steps of a clock."""

    @staticmethod
    def forward(ctx, x, clock, steps):
        ctx.clock, ctx.steps = clock, steps
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.now += ctx.steps
        return gradient, None, None


def test_the_backward_pass_of_each_part():
    clock = Steps()
    watch = Watch(clock)
    parts = {
        name: watch.timed(name)(lambda x, steps=steps: Slow.apply(x, clock, steps))
        for name, steps in (("first", 3), ("second", 40), ("inner", 500))
    }
    outer = watch.timed("outer")(lambda x: parts["inner"](x))  # its result is the inner one's
    x = torch.ones(2, requires_grad=True)
    with watch.part("backward"):
        skipped = parts["first"](x)
        (outer(parts["second"](skipped)) + skipped).sum().backward()
    found = {name: amount["steps"] for name, amount in watch.parts().items() if amount["steps"]}
    expected = {"first": 3, "second": 40, "inner": 500}
    assert found == {f"backward: {name}": steps for name, steps in expected.items()}


def test_seconds_and_seconds_of_computing():
    watch = Watch(Clock())
    with watch.part("asleep"):
        time.sleep(0.02)
    spent = watch.parts()["asleep"]
    assert spent["seconds"] >= 0.02 > spent["cpu_seconds"]
