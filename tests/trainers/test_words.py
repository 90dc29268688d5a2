"""The words nearest to a context, for every method that has one: found, not listed."""

import math

import pytest
import torch

import clip
from dassl.engine import TRAINER_REGISTRY, build_trainer
from protocols.definitions import trainers
from trainers.words import learned_words, main, nearest_words, tell_words

METHODS = trainers()
WORDS = "a photo of a"


@pytest.fixture(scope="module")
def backbone():
    return clip.load("tiny")


@pytest.fixture
def build(run, backbones):
    """build(method, *pairs): its trainer, not trained; contexts that can start from words start from these."""

    def of(method, *pairs):
        key = f"TRAINER.{TRAINER_REGISTRY.get(method).config_key}.CTX_INIT"
        words = (key, WORDS) if key.rpartition(".")[0] in WITH_WORDS and key not in pairs else ()
        return build_trainer(run.config("unused", *words, *pairs, trainer=method))

    return of


def keys_with_words():
    from yacs.config import CfgNode

    import trainers
    from dassl.config import flatten, get_cfg_default

    cfg: CfgNode = get_cfg_default()
    trainers.add_config(cfg)
    return {key.rpartition(".")[0] for key in flatten(cfg) if key.endswith(".CTX_INIT")}


WITH_WORDS = keys_with_words()


@pytest.mark.parametrize("method", METHODS)
def test_a_context_of_words_is_nearest_to_these_words(build, method):
    trainer = build(method)
    found = learned_words(trainer, top=2)
    learnables = [name for name, _ in trainer.model.learner.named_parameters()]
    assert bool(found) == any(name.rpartition(".")[2] == "ctx" for name in learnables)
    assert found or node_of(method) not in WITH_WORDS
    image = torch.zeros(1, 3, 60, 60)
    assert bool(learned_words(trainer, 1, image)) == bool(found)
    if not found:
        assert "no learned context" in tell_words(found)
        return
    if node_of(method) not in WITH_WORDS:  # it draws its contexts: put the words there
        with torch.no_grad():
            trainer.model.learner.ctx[:] = trainer.clip.embed_words(WORDS)
    for name, parameter in trainer.model.learner.named_parameters():
        if "encoder_network" in name:  # PRE adds what its encoder makes of the words: nothing, with these weights
            parameter.data.zero_()
    found = learned_words(trainer, top=2)
    for vectors in found.values():
        assert [near.word for near, _ in vectors] == WORDS.split()[: len(vectors)] and len(vectors) >= 2
        for nearest, second in vectors:
            assert nearest.distance == 0 < second.distance
    assert f"{next(iter(found))}: nearest words" in tell_words(found) and "photo 0.000" in tell_words(found)


def node_of(method):
    return f"TRAINER.{TRAINER_REGISTRY.get(method).config_key}"


@pytest.mark.parametrize("method", ["CoCoOp", "GOPro"])
def test_an_image_shifts_a_context_that_depends_on_it(build, method):
    trainer = build(method)
    with torch.no_grad():
        for parameter in trainer.model.learner.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).to(parameter))
    images = torch.randn(2, 1, 3, 60, 60, generator=torch.Generator().manual_seed(1)).to(trainer.device)
    base = trainer.model.contexts()
    assert list(base) == ["context"]
    with torch.no_grad():
        first, second = (trainer.model.contexts(image) for image in images)
    assert list(first) == list(second) == ["context of this image"]
    one, other = first["context of this image"], second["context of this image"]
    assert one.shape == other.shape == base["context"].shape
    assert not torch.allclose(one, other) and not torch.allclose(one, base["context"])
    # The prompts are made of it: the same vectors given by hand lead to the same logits.
    text = trainer.clip.encode_prompts(one, trainer.model.tree)
    expected = torch.nn.functional.normalize(text, dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(trainer.model(images[0]).text[0], expected, rtol=0, atol=1e-5)


def test_contexts_of_the_classes_own_are_named_and_one_can_be_asked_for(build):
    own = ("TRAINER.COOP.CTX_INIT", "''", "TRAINER.COOP.N_CTX", "3", "TRAINER.COOP.CSC", "True")
    trainer = build("CoOp", *own)
    assert [name.rpartition(", ")[2] for name in trainer.model.contexts()] == trainer.classnames
    (only,) = trainer.model.contexts(label=2).items()
    assert only[0] == f"context of class 2, {trainer.classnames[2]}" and torch.equal(
        only[1], trainer.model.learner.ctx[2]
    )
    assert {len(vectors) for vectors in learned_words(trainer, 1).values()} == {3}


def test_every_context_of_several_is_there(build):
    trainer = build("ProDA")
    found = trainer.model.contexts()
    assert len(found) == trainer.options.N_PROMPT
    assert all(torch.equal(*pair) for pair in zip(found.values(), trainer.model.learner.ctx, strict=True))


def test_pre_shows_what_its_encoder_gives(build):
    trainer = build("PRE")
    (context,) = trainer.model.contexts().values()
    assert torch.equal(context, trainer.model.learner()) and not torch.equal(context, trainer.model.learner.ctx)


def test_nearest_words_are_those_of_a_plain_search(backbone):
    context = torch.randn(3, backbone.text_width, generator=torch.Generator().manual_seed(0))
    found = nearest_words(backbone, context, 4)
    for vector, words in zip(context, found, strict=True):
        distances = [math.dist(vector.tolist(), token) for token in backbone.token_embeddings[:2000].tolist()]
        among = nearest_words(backbone, vector[None], len(backbone.token_embeddings))[0]
        assert among[:4] == words and sorted(among, key=lambda near: near.distance) == among
        assert words[0].distance <= min(distances) + 1e-4
    (row,) = nearest_words(backbone, backbone.token_embeddings[100:101], 1)
    assert row[0].distance == 0 and row[0].word == clip.token_text(100)


@pytest.mark.parametrize("top", [0, -1, 49409])
def test_how_many_words(backbone, top):
    with pytest.raises(ValueError, match=f"top must be from 1 to 49408, got {top}"):
        nearest_words(backbone, torch.zeros(2, backbone.text_width), top)


@pytest.mark.parametrize("shape", [(64,), (2, 3, 64), (4, 63)])
def test_a_context_of_another_shape(backbone, shape):
    with pytest.raises(ValueError, match=r"context must be \[M, 64\]"):
        nearest_words(backbone, torch.zeros(shape))


def test_the_command_prints_the_words_of_a_run(run, tmp_path, image_root, capsys):
    short = ("OPTIM.MAX_EPOCH", "1")
    for method in ("CoCoOp", "CoOp", "ZeroshotCLIP"):
        run(method, *short, trainer=method)
    picture = str(image_root / "photo" / "star" / "0.png")
    capsys.readouterr()
    main([str(tmp_path / "CoOp"), "--top", "2"])
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("context: nearest words") and len(told) == 5
    assert [len(line.split()) for line in told[1:]] == [5] * 4
    main([str(tmp_path / "CoCoOp"), "--image", picture])
    assert capsys.readouterr().out.startswith("context of this image: nearest words")
    main([str(tmp_path / "ZeroshotCLIP")])
    assert "no learned context" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--image has no effect: the prompts of CoOp are the same for all images"):
        main([str(tmp_path / "CoOp"), "--image", picture])


@pytest.mark.parametrize(
    ("args", "message"), [(("--top", "0"), "--top must be from 1"), (("--image", "/none.png"), "/none.png is no file")]
)
def test_wrong_arguments_show_before_the_run_is_loaded(args, message):
    with pytest.raises((ValueError, OSError), match=message):
        main(["/no/run", *args])
