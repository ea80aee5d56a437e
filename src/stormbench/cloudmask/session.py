"""The time in which a process is connected to the others of its launch: TensorFlow set up before it, parting in peace after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.ranks import World
from stormbench.core.errors import Stopped, StormbenchError
from stormbench.core.launch import Launch


@contextlib.contextmanager
def connected(config: TrainConfig, launch: Launch) -> Iterator[tuple[World, list[str]]]:
    """Yield this process's World, and a line for each choice that was made in setting TensorFlow up.

    Raises:
        UserError: TensorFlow or what else was asked for isn't there.
        RunError: the others did not come, or a failure in the block is a known one of TensorFlow's.
    """
    from stormbench.cloudmask.host import prepare

    notes = prepare(config, launch)
    from stormbench.cloudmask.assemble import explained
    from stormbench.cloudmask.wireup import connect

    world = connect(config, launch)
    failed = True
    try:
        yield world, notes
        failed = False
    except Stopped:
        failed = False
        raise
    except BaseException as error:
        known = explained(error, config)
        # what all have been told ends all of them; of anything else the others don't know, so they are not waited for
        failed = not (isinstance(error, StormbenchError) and error.known_to_all)
        if known is error:
            raise
        raise known from error
    finally:
        world.close(failed=failed)
