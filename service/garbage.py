"""Python's garbage collector, kept away from what lives as long as the process does.

It looks at every object that may be part of a cycle, and holds all threads up meanwhile: with torch
and the routes loaded there are some 280,000, which takes 130 ms and more. When it does so depends
on how many objects have come since the last time: 64 connections at once are enough.
"""

import gc


def hold_off() -> None:
    """Have no collections until :func:`set_aside`.

    What is loaded and compiled stays: to look through it again and again while it comes costs half
    a second of a start that takes ten.
    """
    gc.disable()


def set_aside() -> None:
    """Have the collector not look again at what is there now, and go on.

    Called when a process has loaded what it serves and before it takes requests. What was set aside
    and is in a cycle is never freed, unless :func:`let_go` is called.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def let_go() -> None:
    """Free what was set aside and is used no more, such as a model that another one has replaced.

    Takes as long as what :func:`set_aside` avoids, once. Does nothing where nothing was set aside.
    """
    if gc.get_freeze_count():
        gc.unfreeze()
        set_aside()
