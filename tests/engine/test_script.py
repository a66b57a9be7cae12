"""Scripts: what is run for a step."""

from nextpixel.engine.script import ThreadChoice


def test_the_number_of_threads_follows_the_machine() -> None:
    choice, alone = ThreadChoice(4), {4: 1.0, 1: 2.0}

    def most(seconds: dict[int, float]) -> int:
        chosen = []
        for _ in range(1000):
            threads = choice.choose()
            choice.record(threads, seconds[threads])
            chosen.append(threads)
        return max(set(chosen[-500:]), key=chosen[-500:].count)

    assert most(alone) == 4
    assert most({4: 100.0, 1: 2.0}) == 1
    assert most(alone) == 4
