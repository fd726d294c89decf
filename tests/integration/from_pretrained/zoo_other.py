"""Tiny models that see or hear, and what their forward takes.

Convolutions, batch norms with counters, weight norms, position tables as buffers, and text models below a prefix.
"""

from __future__ import annotations

import torch
import transformers as t

from .zoo_text import GROUPED, PLAIN, SEQ2SEQ, SIZES, SPECIAL, VOCABULARY

IMAGE_TOKEN = 90
VISION_START, VISION_END, VIDEO_TOKEN = 91, 92, 93
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
PICTURES = (2, 3, 16, 16)  # 16 patches of 4 x 4 each
SOUND = {
    **SIZES,
    "intermediate_size": 64,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    **SPECIAL,
}


def _whisper():
    config = t.WhisperConfig(
        **{**SEQ2SEQ, "decoder_start_token_id": 3},
        num_mel_bins=16,
        max_source_positions=16,
        max_target_positions=32,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return config, t.WhisperForConditionalGeneration


def _llava():
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**TOWER),
        text_config=t.LlamaConfig(**GROUPED),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=16,
    )
    return config, t.LlavaForConditionalGeneration


def _qwen2_vl():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}  # named as before transformers 5, which reads it too
    config = t.Qwen2VLConfig(
        text_config={**GROUPED, "rope_scaling": rope, "rope_theta": 10000.0},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4},
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    return config, t.Qwen2VLForConditionalGeneration


def _gemma3():
    config = t.Gemma3Config(
        text_config=t.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=16),
        vision_config=t.SiglipVisionConfig(**TOWER, vision_use_head=False),
        mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN,
        boi_token_index=VISION_START,
        eoi_token_index=VISION_END,
    )
    return config, t.Gemma3ForConditionalGeneration


def _two_towers(family):
    """Text beside vision, each a configuration within the other."""
    text = {**PLAIN, "projection_dim": 32}
    return family(text_config=text, vision_config={**TOWER, "projection_dim": 32})


VISION = {
    "vit": lambda: (t.ViTConfig(**TOWER), t.ViTForImageClassification),
    "dinov2": lambda: (t.Dinov2Config(**TOWER), t.Dinov2Model),
    "beit": lambda: (
        t.BeitConfig(**TOWER, use_relative_position_bias=True, use_mask_token=True, vocab_size=VOCABULARY),
        t.BeitForMaskedImageModeling,
    ),
    "swin": lambda: (
        t.SwinConfig(image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4),
        t.SwinForImageClassification,
    ),
    "convnextv2": lambda: (
        t.ConvNextV2Config(depths=[1, 1], hidden_sizes=[16, 32], num_stages=2),
        t.ConvNextV2ForImageClassification,
    ),
    "resnet": lambda: (
        t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"),
        t.ResNetForImageClassification,
    ),
}

TOWERS = {
    "clip": lambda: (_two_towers(t.CLIPConfig), t.CLIPModel),
    "siglip": lambda: (_two_towers(t.SiglipConfig), t.SiglipModel),
}

AUDIO = {
    "whisper": _whisper,
    "wav2vec2": lambda: (t.Wav2Vec2Config(**SOUND), t.Wav2Vec2ForCTC),
    "hubert": lambda: (t.HubertConfig(**SOUND), t.HubertForCTC),
}

MULTIMODAL = {
    "llava": _llava,
    "qwen2_vl": _qwen2_vl,
    "gemma3": _gemma3,
}

OTHER = VISION | TOWERS | AUDIO | MULTIMODAL


def _with_images(numbers, tokens):
    """Ids of one sequence for each picture, which has `tokens` places in it."""
    text = torch.randint(3, IMAGE_TOKEN, (2, 9), generator=numbers)
    return torch.cat([text[:, :4], torch.full((2, tokens), IMAGE_TOKEN), text[:, 4:]], dim=1)


def other_inputs(name, numbers):
    """What the forward of a model of `OTHER` takes, by keyword, drawn from the generator `numbers`."""
    if name == "whisper":
        ids = torch.randint(3, VOCABULARY, (2, 5), generator=numbers)
        return {"input_features": torch.randn(2, 16, 32, generator=numbers), "decoder_input_ids": ids}
    if name in AUDIO:
        return {"input_values": torch.randn(2, 400, generator=numbers)}
    if name == "qwen2_vl":
        ids = _with_images(numbers, 4)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE_TOKEN).int(),
            "pixel_values": torch.randn(32, 3 * 2 * 4 * 4, generator=numbers),
            "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 4]]),
        }
    pictures = {"pixel_values": torch.randn(PICTURES, generator=numbers)}
    if name == "llava":
        return {"input_ids": _with_images(numbers, 16), **pictures}
    if name == "gemma3":
        ids = _with_images(numbers, 4)
        return {"input_ids": ids, "token_type_ids": (ids == IMAGE_TOKEN).int(), **pictures}
    if name in TOWERS:
        return {"input_ids": torch.randint(3, VOCABULARY, (2, 9), generator=numbers), **pictures}
    if name == "beit":
        return {**pictures, "bool_masked_pos": torch.rand(2, 16, generator=numbers) > 0.5}
    return pictures
