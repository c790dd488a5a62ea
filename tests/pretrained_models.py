"""Small random captioners of transformers' own architectures, saved as their repositories on the hub hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from git_caption.text.tokenizer import train_bpe
from tests.hub_cache import TEXTS

WIDTH, SIDE, PATCH = 16, 32, 16
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
WORDS += sorted(
    {word for text in TEXTS for word in text.replace("?", " ?").replace(".", " .").replace(",", " ,").split()}
)
WORDS += ["##s", "'", "triangle", "yellow", "three", "a", "the", "of"]
WORDS = list(dict.fromkeys(WORDS))
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
TEXT = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {
    "vocab_size": len(WORDS),
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "max_position_embeddings": 48,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def shaken(model: Any) -> Any:
    """The model with weights large enough that texts differ from image to image and end at different lengths."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.7 if "embed" in name or "wte" in name or "wpe" in name else 0.35)
    return model.eval()


def word_pieces(folder: Path) -> Any:
    """A BERT tokenizer of a few words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return hf.BertTokenizer(str(folder / "vocab.txt"))


def blip(folder: Path, answering: bool = False) -> Path:
    text = TEXT | BERT | {"bos_token_id": WORDS.index("[DEC]"), "sep_token_id": 3, "encoder_hidden_size": WIDTH}
    config = hf.BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=WIDTH)
    kind = hf.BlipForQuestionAnswering if answering else hf.BlipForConditionalGeneration
    shaken(kind(config)).save_pretrained(folder)
    images = hf.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    hf.BlipProcessor(images, word_pieces(folder)).save_pretrained(folder)
    return folder


def blip_answering(folder: Path) -> Path:
    return blip(folder, answering=True)


def opt(**special: int) -> Any:
    """The config of a small OPT."""
    return hf.OPTConfig(
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        **special,
    )


def blip2(folder: Path, seq2seq: bool = False) -> Path:
    tokenizer = train_bpe(TEXTS, 300, folder)
    queries = TEXT | {"encoder_hidden_size": WIDTH, "vocab_size": 10}
    special = {"vocab_size": 302, "bos_token_id": 0, "eos_token_id": 10, "pad_token_id": 1}
    text: Any = opt(**special)
    if seq2seq:
        text = hf.T5Config(
            d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2, **special, decoder_start_token_id=1
        )
    config = hf.Blip2Config(
        vision_config=VISION,
        qformer_config=queries,
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_index=301,
    )
    shaken(hf.Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    images = hf.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    hf.Blip2Processor(images, tokenizer, num_query_tokens=3).save_pretrained(folder)
    return folder


def blip2_seq2seq(folder: Path) -> Path:
    return blip2(folder, seq2seq=True)


def git(folder: Path, frames: int | None = None) -> Path:
    config = hf.GitConfig(vision_config=VISION, num_image_with_embedding=frames, **TEXT, **BERT)
    model = shaken(hf.GitForCausalLM(config))
    if frames:
        with torch.no_grad():
            for mark in model.git.img_temporal_embedding:
                mark.normal_()
    model.save_pretrained(folder)
    images = hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    hf.GitProcessor(images, word_pieces(folder)).save_pretrained(folder)
    return folder


def git_video(folder: Path) -> Path:
    return git(folder, frames=3)


def vision_encoder_decoder(folder: Path, decoder: str = "gpt2") -> Path:
    vision = hf.ViTConfig(**VISION | {"hidden_size": 24} if decoder == "gpt2" else VISION)
    if decoder == "gpt2":
        tokenizer = train_bpe(TEXTS, 300, folder)
        text: Any = hf.GPT2Config(vocab_size=300, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=48, bos_token_id=0)
        start, end, pad = 0, 0, 0
    elif decoder == "roberta":
        tokenizer = train_bpe(TEXTS, 300, folder)
        text = hf.RobertaConfig(**TEXT, vocab_size=300, pad_token_id=1, max_position_embeddings=48, type_vocab_size=1)
        start, end, pad = 0, 0, 1
    else:
        tokenizer = word_pieces(folder)
        text = hf.BertConfig(**TEXT, **BERT)
        start, end, pad = 2, 3, 0
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = start, end, pad
    model = hf.VisionEncoderDecoderModel(config=config)
    settings = model.generation_config
    settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id = start, end, pad
    shaken(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def vit_bert(folder: Path) -> Path:
    return vision_encoder_decoder(folder, "bert")


def vit_roberta(folder: Path) -> Path:
    return vision_encoder_decoder(folder, "roberta")


def chat_template(image: str) -> str:
    """Images as they stand in the text, then the text, then what an answer begins with."""
    parts = f"{{% if part.type == 'image' %}}{image}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    return f"{{% for message in messages %}}{{% for part in message.content %}}{parts}{{% endfor %}}{{% endfor %}} yes."


def marked(folder: Path, *tokens: str) -> Any:
    """A byte-level tokenizer of 300 tokens, and of these after them."""
    tokenizer = train_bpe(TEXTS, 300, folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


def llava(folder: Path, chats: bool = True) -> Path:
    """LLaVA on a LLaMA; its processor speaks a chat template, or the bare prompt after the image."""
    tokenizer = marked(folder, "<image>")
    text = hf.LlamaConfig(**TEXT, **ENDS, vocab_size=301, max_position_embeddings=96)
    vision = hf.CLIPVisionConfig(**VISION)
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=300, pad_token_id=0)
    model = shaken(hf.LlavaForConditionalGeneration(config))
    model.save_pretrained(folder)
    hf.LlavaProcessor(
        hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>") if chats else None,
    ).save_pretrained(folder)
    return folder


def llava_without_template(folder: Path) -> Path:
    return llava(folder, chats=False)


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL, whose images are of any size and whose positions have three axes."""
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = marked(folder, *marks)
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(marks), strict=True))
    ropes = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    text = TEXT | ENDS | {"vocab_size": 304, "max_position_embeddings": 128, "num_key_value_heads": 2}
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": WIDTH, "num_heads": 2, "patch_size": 14, "mlp_ratio": 2}
    config = hf.Qwen2VLConfig(text_config=text | {"rope_parameters": ropes}, vision_config=vision, **ids)
    shaken(hf.Qwen2VLForConditionalGeneration(config)).save_pretrained(folder)
    images = hf.Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28})
    template = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
    hf.Qwen2VLProcessor(images, tokenizer, hf.Qwen2VLVideoProcessor(), chat_template=template).save_pretrained(folder)
    return folder


def paligemma(folder: Path) -> Path:
    tokenizer = marked(folder, "<image>")
    sizes = {"vocab_size": 301, "max_position_embeddings": 96, "head_dim": 8, "num_key_value_heads": 1}
    text = hf.GemmaConfig(**TEXT, **ENDS, **sizes)
    vision = hf.SiglipVisionConfig(**VISION)
    config = hf.PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=300,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        vocab_size=301,
    )
    shaken(hf.PaliGemmaForConditionalGeneration(config)).save_pretrained(folder)
    images = hf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // PATCH) ** 2
    hf.PaliGemmaProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def idefics3(folder: Path) -> Path:
    """Idefics3, the architecture of SmolVLM, which cuts an image into tiles."""
    tokenizer = marked(folder, "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    text = hf.LlamaConfig(**TEXT, **ENDS, vocab_size=304, max_position_embeddings=256)
    config = hf.Idefics3Config(
        vision_config=VISION, text_config=text.to_dict(), image_token_id=301, scale_factor=1, pad_token_id=0
    )
    shaken(hf.Idefics3ForConditionalGeneration(config)).save_pretrained(folder)
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    tokens = (SIDE // PATCH) ** 2
    hf.Idefics3Processor(
        images, tokenizer, image_seq_len=tokens, chat_template=chat_template("<image>")
    ).save_pretrained(folder)
    return folder


def florence2(folder: Path) -> Path:
    """Florence-2, an encoder-decoder."""
    marked(folder, "<image>").save_pretrained(folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, extra_special_tokens={"image_token": "<image>"})
    text = hf.BartConfig(
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=301,
        max_position_embeddings=96,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    )
    vision = {"depths": [1] * 4, "embed_dim": [8, 8, 8, 16], "num_heads": [1, 1, 1, 2], "num_groups": [1, 1, 1, 2]}
    vision |= {"patch_stride": [4, 2, 2, 2], "window_size": 2, "projection_dim": WIDTH, "drop_path_rate": 0.0}
    config = hf.Florence2Config(vision_config=vision, text_config=text.to_dict(), image_token_id=300)
    config.is_encoder_decoder = True
    shaken(hf.Florence2ForConditionalGeneration(config)).save_pretrained(folder)
    images = hf.CLIPImageProcessor(size={"height": 2 * SIDE, "width": 2 * SIDE}, do_center_crop=False)
    images.image_seq_length = 5  # four cells and their mean
    hf.Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder


def instructblip(folder: Path) -> Path:
    """InstructBLIP, whose Q-Former reads the question beside the image."""
    tokenizer = marked(folder, "<image>")
    queries = TEXT | {"encoder_hidden_size": WIDTH, "vocab_size": len(WORDS)}
    text = opt(vocab_size=302, bos_token_id=0, eos_token_id=10, pad_token_id=1)
    config = hf.InstructBlipConfig(
        vision_config=VISION,
        qformer_config=queries,
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_index=300,
    )
    shaken(hf.InstructBlipForConditionalGeneration(config)).save_pretrained(folder)
    images = hf.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    asked = word_pieces(folder / "qformer_tokenizer")
    hf.InstructBlipProcessor(images, tokenizer, asked, num_query_tokens=3).save_pretrained(folder)
    return folder


# Taken apart into features and continuation.
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "blip": blip,
    "blip_answering": blip_answering,
    "blip2": blip2,
    "blip2_seq2seq": blip2_seq2seq,
    "git": git,
    "vit_gpt2": vision_encoder_decoder,
    "vit_bert": vit_bert,
    "vit_roberta": vit_roberta,
}
# Run whole.
WHOLE: dict[str, Callable[[Path], Path]] = {
    "llava": llava,
    "llava_without_template": llava_without_template,
    "qwen2_vl": qwen2_vl,
    "paligemma": paligemma,
    "idefics3": idefics3,
    "florence2": florence2,
    "instructblip": instructblip,
}
