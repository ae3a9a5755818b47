"""Students and teachers as they are loaded, pruned and run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import SPECIAL, family, write_checkpoint
from tiny_training import load_student, make_rows, trainer
from transformers import (
    AutoTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    ViTConfig,
)

from sparsekit.errors import UserError
from sparsekit.models.contents import weights_hash
from sparsekit.models.hub import fetch, weight_files
from sparsekit.models.loading import (
    Student,
    embedded_tokens,
    load_for_task,
    positions_of,
    read_config,
)
from sparsekit.models.predict import length_batches, predict_outputs
from sparsekit.models.pruning import prune, sparsity
from sparsekit.oneshot.checkpoint import Data as PruningData
from sparsekit.oneshot.methods import OneShot
from sparsekit.oneshot.prune import prune_checkpoint
from sparsekit.recipe.recipe import Recipe
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.sparsity.prunable import prunable
from sparsekit.tasks.base import Data, Task
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.tokens import tokenize

TASK = TextClassification(max_length=64)

LABELS = ["neg", "pos"]


def test_a_sparse_student_keeps_its_zeros_and_gets_a_head(student_folder: str) -> None:
    loaded = Student(checkpoint=student_folder).load(TASK, LABELS)
    measured = sparsity(loaded.model)
    assert measured["overall"] == pytest.approx(0.9, abs=1e-3)
    assert measured["layers"]["classifier"] == 0
    assert loaded.model.config.id2label == {0: "neg", 1: "pos"}
    assert loaded.model.dtype == torch.float32


@pytest.mark.parametrize("share", [0.0, 0.33, 0.8])
def test_pruning_at_load_is_exact_in_every_layer(teacher_folder: str, share: float) -> None:
    loaded = Student(checkpoint=teacher_folder, sparsity=share).load(TASK, LABELS)
    for module in prunable(loaded.model).values():
        assert int((module.weight == 0).sum()) == round(share * module.weight.numel())
    assert (loaded.model.bert.pooler.dense.weight != 0).all()


def test_pruning_twice_changes_nothing(teacher_folder: str) -> None:
    model = Student(checkpoint=teacher_folder, sparsity=0.5).load(TASK, LABELS).model
    before = {name: p.clone() for name, p in model.named_parameters()}
    prune(model, 0.5)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_share_of_one_is_refused() -> None:
    assert (
        "student.sparsity 1.0 lies outside" in Student(checkpoint="x", sparsity=1.0).problems()[0]
    )


def test_a_sequence_longer_than_the_model(teacher_folder: str) -> None:
    with pytest.raises(UserError, match="max_length 9999 is more than the 512 positions"):
        Student(checkpoint=teacher_folder).load(TextClassification(max_length=9999), LABELS)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_weights_cut_short_are_named(teacher_folder: str, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(teacher_folder, folder)
    if kind == "safetensors":
        load_for_task(folder, TASK, LABELS)[0].model.save_pretrained(folder)
        (folder / "pytorch_model.bin").unlink()
    weights = folder / ("pytorch_model.bin" if kind == "bin" else "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-2000])
    with pytest.raises(UserError, match=f"cannot read the weights {weights.name}.*cut short"):
        load_for_task(folder, TASK, LABELS)


def test_weights_that_are_stored_transposed(teacher_folder: str, tmp_path: Path) -> None:
    # As checkpoints are that were converted from TensorFlow: kernels would take columns for rows.
    folder = tmp_path / "teacher"
    shutil.copytree(teacher_folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    plain, _ = load_for_task(
        Path(teacher_folder), TextClassification(max_length=32), ["neg", "pos"]
    )
    stored = {
        name: value.t().contiguous().t() if value.ndim == 2 else value
        for name, value in plain.model.state_dict().items()
    }
    torch.save(stored, folder / "pytorch_model.bin")
    loaded, _ = load_for_task(folder, TextClassification(max_length=32), ["neg", "pos"])
    assert all(weight.is_contiguous() for weight in loaded.model.parameters())
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name]), name


def test_a_folder_without_weights(teacher_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    shutil.copytree(teacher_folder, folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        load_for_task(folder, TASK, LABELS)


def test_a_student_with_half_of_its_weights(teacher_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(teacher_folder, folder)
    file = folder / "pytorch_model.bin"
    weights = torch.load(file)
    torch.save({k: v for k, v in weights.items() if "layer.1" not in k}, file)
    with pytest.raises(UserError, match=r"lacks the weights bert\.encoder\.layer\.1"):
        Student(checkpoint=str(folder)).load(TASK, LABELS)


@pytest.mark.parametrize("settings", [{}, {"model_input_names": ["input_ids", "attention_mask"]}])
def test_a_model_of_one_token_type_reads_no_others(
    teacher_folder: str, tmp_path: Path, settings: dict[str, list[str]]
) -> None:
    """A RoBERTa with the tokenizer of a BERT, which gives the second text of a pair type 1."""
    folder = tmp_path / "roberta"
    shutil.copytree(teacher_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(
        **{**shape, "vocab_size": len(tokenizer), "type_vocab_size": 1, "intermediate_size": 32}
    )
    model = RobertaForSequenceClassification(config)
    model.save_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()
    tokenizer.save_pretrained(folder)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(written | settings))
    task = TextClassification(max_length=32)
    loaded, _ = load_for_task(folder, task, LABELS)
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    plain = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert set(plain("a film", "it was good")) == {"input_ids", "attention_mask"}
    encoder = TextEncoder(tmp_path / "saved")
    [encoding] = encoder.encode(["a film"], ["it was good"])
    assert 1 in encoding.type_ids
    assert not encoder.batch([encoding])["token_type_ids"].any()
    with torch.inference_mode():
        loaded.model(**loaded.tokenizer("a film", "it was good", return_tensors="pt"))


def test_token_types_of_a_bert_are_read(teacher_folder: str, tmp_path: Path) -> None:
    loaded, _ = load_for_task(Path(teacher_folder), TextClassification(max_length=32), LABELS)
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder(tmp_path)
    encodings = encoder.encode(["a film"], ["it was good"])
    assert encoder.batch(encodings)["token_type_ids"].any()
    assert "token_type_ids" in loaded.tokenizer("a film", "it was good")


def test_a_folder_without_tokenizer(teacher_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "wordless"
    shutil.copytree(teacher_folder, folder)
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="has 5 special tokens and no words"):
        load_for_task(folder, TASK, LABELS)


def test_a_tokenizer_of_another_model(teacher_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(teacher_folder, folder)
    with (folder / "vocab.txt").open("a") as file:
        file.writelines(f"word{i}\n" for i in range(500))
    with pytest.raises(UserError, match="tokens, but the model embeds"):
        load_for_task(folder, TASK, LABELS)


def test_what_is_no_encoder(teacher_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(teacher_folder, folder)
    (folder / "config.json").write_text(T5Config().to_json_string())
    with pytest.raises(UserError, match="an encoder-decoder, t5; choose an encoder"):
        load_for_task(folder, TASK, LABELS)
    (folder / "config.json").write_text(ViTConfig().to_json_string())
    with pytest.raises(
        UserError, match=r"cannot be loaded for text classification.*choose an encoder"
    ):
        load_for_task(folder, TASK, LABELS)


def changed(folder: str, target: Path, **config: object) -> Path:
    """A copy of the checkpoint whose config.json also has these keys."""
    copy = Path(shutil.copytree(folder, target))
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | config))
    return copy


@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_a_student_for_another_task_learns_one_class_per_text(
    student_folder: str, tmp_path: Path, task: str
) -> None:
    folder = changed(student_folder, tmp_path / "student", problem_type=task)
    plain, other = load_student(student_folder), load_student(str(folder))
    inputs = plain.tokenizer(["warm and witty .", "dull"], padding=True, return_tensors="pt")
    labels = torch.tensor([1, 0])
    losses = []
    for loaded in (plain, other):
        loaded.model.classifier.load_state_dict(plain.model.classifier.state_dict())
        losses.append(loaded.model.eval()(**inputs, labels=labels).loss)
    assert torch.equal(*losses)
    other.model.save_pretrained(tmp_path / "saved")
    assert read_config(tmp_path / "saved").problem_type == "single_label_classification"


@pytest.mark.parametrize("method", ["compressed-tensors", "bitsandbytes", "gptq"])
def test_quantized_weights_are_refused(student_folder: str, tmp_path: Path, method: str) -> None:
    quantized = {"quant_method": method}
    folder = changed(student_folder, tmp_path / "student", quantization_config=quantized)
    with pytest.raises(UserError, match=f"quantized by {method}, and training needs float"):
        Student(checkpoint=str(folder)).load(TASK, LABELS)


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_no_model(student_folder: str, tmp_path: Path, whole: bool) -> None:
    folder = changed(student_folder, tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    if not whole:
        (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"is an adapter .*merge_and_unload"):
        Student(checkpoint=str(folder)).config()


def test_roberta_counts_positions_from_its_padding(teacher_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    shutil.copytree(teacher_folder, folder)
    (folder / "config.json").write_text(RobertaConfig(max_position_embeddings=34).to_json_string())
    with pytest.raises(UserError, match="max_length 33 is more than the 32 positions"):
        load_for_task(folder, TextClassification(max_length=33), LABELS)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(UserError, match="there is no checkpoint folder"):
        fetch("./nowhere")


def test_a_run_folder_in_place_of_its_model(teacher_folder: str, tmp_path: Path) -> None:
    shutil.copytree(teacher_folder, tmp_path / "run" / "model")
    with pytest.raises(UserError, match=r"holds no config.json; give .*run/model"):
        fetch(str(tmp_path / "run"))


def test_the_weights_hash_sees_every_weight(teacher_folder: str, student_folder: str) -> None:
    assert weights_hash(Path(teacher_folder)) == weights_hash(Path(teacher_folder))
    assert weights_hash(Path(teacher_folder)) != weights_hash(Path(student_folder))


def test_logits_come_in_the_order_of_the_rows(teacher_folder: str) -> None:
    loaded, _ = load_for_task(Path(teacher_folder), TASK, LABELS)
    texts = ["the plot is dull .", "warm", "the cast is truly witty from start to finish ."] * 3
    rows = Dataset.from_dict({"text": texts, "label": [0] * 9})
    tokens = tokenize(
        Data(TASK, {"t": rows}, LABELS),
        loaded.tokenizer,
        loaded.tokenizer_hash,
    )
    logits = predict_outputs(loaded.model, TASK, tokens["t"], loaded.tokenizer)["logits"]
    loaded.model.eval()
    # The last layer was short for these passes only.
    whole = loaded.model(
        **loaded.tokenizer(texts[0], return_tensors="pt"), output_hidden_states=True
    )
    assert whole.hidden_states[-1].shape[1] > 1
    for row, text in enumerate(texts):
        with torch.no_grad():
            alone = loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(logits[row], alone.numpy(), atol=1e-5)


def test_a_checkpoint_that_works_in_chunks(student_folder: str, tmp_path: Path) -> None:
    """Its chunks would fit no length that batches have, and change no result."""
    folder = Path(shutil.copytree(student_folder, tmp_path / "student"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"chunk_size_feed_forward": 7}))
    plain, chunked = load_student(student_folder), load_student(str(folder))
    rows = make_rows(plain)
    logits = [
        predict_outputs(x.model, TASK, rows["validation"], x.tokenizer)["logits"]
        for x in (plain, chunked)
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    trainer(tmp_path, chunked, rows, Recipe.build({"num_epochs": 1}), max_steps=1).train()
    assert chunked.model.config.chunk_size_feed_forward == 0


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 1000)
    batches = length_batches(lengths, 256)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert all(len(batch) * lengths[batch].max() <= 256 for batch in batches)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded / lengths.sum() < 1.1


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_padded_on_the_right_whatever_the_tokenizer_says(
    student_folder: str, tmp_path: Path, side: str
) -> None:
    folder = Path(shutil.copytree(student_folder, tmp_path / "student"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": side}))
    tokenizer = Student(checkpoint=str(folder)).load(TASK, LABELS).tokenizer
    assert tokenizer(["it", "the plot is dull"], padding=True)["attention_mask"][0][-1] == 0


def test_an_encoder_decoder_is_refused_by_its_config(tmp_path: Path) -> None:
    folder = write_checkpoint(family("T5"), tmp_path / "t5")
    data = PruningData(file=tmp_path / "data.csv", text_columns=["text"])
    with pytest.raises(UserError, match=r"t5 is an encoder-decoder"):
        prune_checkpoint(str(folder), tmp_path / "out", OneShot(sparsity=0.5, method="wanda"), data)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"t5 is an encoder-decoder, t5; choose an encoder"):
        Student(checkpoint=str(folder)).config()


def test_a_missing_padding_token_is_the_end_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_checkpoint(family("Llama"), tmp_path / "llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    changed = settings | {"eos_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(changed))
    loaded = Student(checkpoint=str(folder)).load(TASK, LABELS)
    assert "no padding token: its end token [SEP] is used" in caplog.text
    assert loaded.tokenizer.pad_token == "[SEP]"
    # The head finds each row's last token by it.
    assert loaded.model.config.pad_token_id == loaded.tokenizer.convert_tokens_to_ids("[SEP]")


def test_a_tokenizer_of_a_vocabulary_alone_becomes_a_fast_one(
    student_folder: str, tmp_path: Path
) -> None:
    """As checkpoints of slow tokenizers have it: vocab.txt, and no tokenizer.json."""
    folder = Path(student_folder)
    assert (folder / "vocab.txt").is_file() and not (folder / "tokenizer.json").exists()
    made = Student(checkpoint=student_folder).load(TASK, LABELS).tokenizer
    assert made.is_fast
    made.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("A warm and funny film.", "unbelievably dull", ""):
        ids = made(text)["input_ids"]
        assert ids == again(text)["input_ids"]
        assert ids[0] == made.cls_token_id and ids[-1] == made.sep_token_id


def test_a_tokenizer_without_a_fast_form_is_refused(student_folder: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(student_folder, tmp_path / "student"))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in [*SPECIAL, "a", "film"]))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic", '
        '"subword_tokenizer_type": "wordpiece"}'
    )
    with pytest.raises(UserError, match=r"BertJapaneseTokenizer, is not a fast tokenizer, which"):
        Student(checkpoint=str(folder)).load(TASK, LABELS)


def test_no_limit_of_positions(tmp_path: Path) -> None:
    assert positions_of(read_config(write_checkpoint(family("XLNet"), tmp_path / "xlnet"))) is None


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (QuestionAnswering(max_length=32, doc_stride=8), "counts an answer's tokens"),
        (Embedding(max_length=32, pooling="first"), r"set dataset\.pooling=mean"),
    ],
    ids=["question answering", "embeddings"],
)
def test_a_task_that_counts_from_the_first_token_takes_no_left_padding(
    tmp_path: Path, task: Task, problem: str
) -> None:
    folder = write_checkpoint(family("XLNet"), tmp_path / "xlnet")
    with pytest.raises(UserError, match=f"xlnet, whose batches are padded on the left.*{problem}"):
        Student(checkpoint=str(folder)).load(task, [])
    Student(checkpoint=str(folder)).load(Embedding(max_length=32), [])


def test_stale_shards_are_neither_loaded_nor_hashed(student_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    model = Student(checkpoint=student_folder).load(TASK, LABELS).model
    model.save_pretrained(folder)
    whole = weights_hash(folder)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier save")
    assert weights_hash(folder) == whole
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]


def test_the_shards_of_the_index_are_hashed(student_folder: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(student_folder, tmp_path / "student"))
    (folder / "pytorch_model.bin").unlink()
    model = Student(checkpoint=student_folder).load(TASK, LABELS).model
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model-00009-of-00009.safetensors").write_bytes(b"of an earlier save")
    files = weight_files(folder)
    assert len(files) > 1 and folder / "model-00009-of-00009.safetensors" not in files
    reloaded = Student(checkpoint=str(folder)).load(TASK, LABELS).model
    assert all(map(torch.equal, model.parameters(), reloaded.parameters()))
    files[0].unlink()
    with pytest.raises(UserError, match=rf"names {files[0].name}, which .* lacks"):
        weight_files(folder)


def test_weights_that_are_not_numbers_are_named(student_folder: str, tmp_path: Path) -> None:
    model = Student(checkpoint=student_folder).load(TASK, LABELS).model
    model.bert.pooler.dense.weight.data[0, 0] = float("nan")
    folder = Path(shutil.copytree(student_folder, tmp_path / "student"))
    (folder / "pytorch_model.bin").unlink()
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"weight bert.pooler.dense.weight in .* holds NaN"):
        Student(checkpoint=str(folder)).load(TASK, LABELS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_checkpoint_trains_in_float32(
    student_folder: str, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = Path(shutil.copytree(student_folder, tmp_path / "student"))
    (folder / "pytorch_model.bin").unlink()
    model = Student(checkpoint=student_folder).load(TASK, LABELS).model
    model.to(dtype).save_pretrained(folder, max_shard_size="20KB")
    loaded = Student(checkpoint=str(folder)).load(TASK, LABELS).model
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, model.get_parameter(name).float())


def test_a_model_with_more_embeddings_than_tokens(student_folder: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(student_folder, tmp_path / "student"))
    (folder / "pytorch_model.bin").unlink()
    loaded = Student(checkpoint=student_folder).load(TASK, LABELS)
    loaded.model.resize_token_embeddings(len(loaded.tokenizer) + 7)
    loaded.model.save_pretrained(folder)
    again = Student(checkpoint=str(folder)).load(TASK, LABELS)
    assert embedded_tokens(again.model) == len(again.tokenizer) + 7
