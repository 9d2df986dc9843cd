"""Generation by both clients, from the real server."""

import numpy as np
import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.client import (
    Client,
    GeneratedImage,
    Preview,
    Progress,
    ServerRefusedError,
)
from tests.flowmo.scripted import Asker
from tests.service.pictures import from_file


def test_tokens_and_images_of_a_class(ask: Asker, server: ServerProcess) -> None:
    (model,) = ask(server, "models")
    assert model.prior.class_names == ("cat", "dog")
    first, second = ask(server, "generate", "dog", count=2, seed=3, steps=3, temperature=0.8)
    assert (first.seed, second.seed, first.steps) == (3, 4, 3)
    assert first.prior == model.prior.fingerprint
    assert first.container.fingerprint == model.fingerprint
    image = ask(server, "generate_image", 1, seed=3, steps=3, temperature=0.8, decode_steps=2)
    assert isinstance(image, GeneratedImage)
    assert (image.seed, image.steps, image.decode_steps) == (3, 3, 2)
    assert from_file(image.data).shape == (32, 32, 3)


def test_tokens_are_edited_and_seen_on_their_way(ask: Asker, server: ServerProcess) -> None:
    (before,) = ask(server, "generate", "cat")
    mask = np.arange(16) % 2 == 0
    (after,) = ask(server, "generate", "dog", seed=9, tokens=before, mask=mask)
    old, new = before.container.tokens.ids[0], after.container.tokens.ids[0]
    assert (old[mask] == new[mask]).all()
    assert (old != new).any()
    came = ask(server, "stream_generate", "dog", seed=9, tokens=before, mask=mask, previews=[2])
    kinds = [type(event) for event in came]
    assert kinds == [Progress, Progress, Preview, Progress, Progress, GeneratedImage]
    assert came[-1].container.tokens == after.container.tokens


def test_what_is_refused(server: ServerProcess) -> None:
    with Client(server.url) as client:
        with pytest.raises(ServerRefusedError, match="no class 'cow'"):
            client.generate("cow")
        with pytest.raises(ValueError, match="tokens and mask go together"):
            client.generate("cat", mask=[True])
