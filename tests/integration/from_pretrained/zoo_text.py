"""Tiny text models: decoders, mixtures of experts, state spaces, encoders, and encoders with decoders.

Each entry of a table gives a configuration and its model class. Every family of memory layout that transformers
has should be here at least once: tied heads, fused projections, transposed weights, experts kept apart in the file.
"""

from __future__ import annotations

import transformers as t

VOCABULARY = 99
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
PLAIN = {**SIZES, "intermediate_size": 64, "max_position_embeddings": 64, **SPECIAL}  # one head of keys per query
GROUPED = {**PLAIN, "num_key_value_heads": 2}
TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED_EXPERT = {**EXPERTS, "shared_expert_intermediate_size": 32}
LATENT = {  # attention through a latent, as DeepSeek has it
    **PLAIN,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    **SPECIAL,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}

DECODERS = {
    "llama": lambda: (t.LlamaConfig(**GROUPED), t.LlamaForCausalLM),
    "llama_tied": lambda: (t.LlamaConfig(**GROUPED, **TIED), t.LlamaForCausalLM),
    "qwen2": lambda: (t.Qwen2Config(**GROUPED), t.Qwen2ForCausalLM),
    "qwen3": lambda: (t.Qwen3Config(**GROUPED, head_dim=8, **TIED), t.Qwen3ForCausalLM),
    "mistral": lambda: (t.MistralConfig(**GROUPED, sliding_window=16), t.MistralForCausalLM),
    "gemma2": lambda: (t.Gemma2Config(**GROUPED, head_dim=8, sliding_window=16), t.Gemma2ForCausalLM),
    "gemma3_text": lambda: (t.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=16), t.Gemma3ForCausalLM),
    "phi": lambda: (t.PhiConfig(**PLAIN), t.PhiForCausalLM),
    "phi3": lambda: (t.Phi3Config(**GROUPED), t.Phi3ForCausalLM),
    "cohere2": lambda: (t.Cohere2Config(**GROUPED, sliding_window=16), t.Cohere2ForCausalLM),
    "falcon": lambda: (t.FalconConfig(**SIZES, **SPECIAL), t.FalconForCausalLM),
    "gpt2": lambda: (
        t.GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, **SPECIAL),
        t.GPT2LMHeadModel,
    ),
    "gpt_neo": lambda: (
        t.GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=64,
            **SPECIAL,
        ),
        t.GPTNeoForCausalLM,
    ),
    "gpt_neox": lambda: (t.GPTNeoXConfig(**PLAIN), t.GPTNeoXForCausalLM),
    "gptj": lambda: (
        t.GPTJConfig(
            vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, **SPECIAL, **UNTIED
        ),
        t.GPTJForCausalLM,
    ),
    "opt": lambda: (t.OPTConfig(**SIZES, ffn_dim=64, max_position_embeddings=64, **SPECIAL), t.OPTForCausalLM),
    "bloom": lambda: (
        t.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, **SPECIAL),
        t.BloomForCausalLM,
    ),
    "mpt": lambda: (
        t.MptConfig(vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=2, max_seq_len=64, **SPECIAL),
        t.MptForCausalLM,
    ),
    "olmo2": lambda: (t.Olmo2Config(**GROUPED), t.Olmo2ForCausalLM),
    "stablelm": lambda: (t.StableLmConfig(**GROUPED), t.StableLmForCausalLM),
    "starcoder2": lambda: (t.Starcoder2Config(**GROUPED), t.Starcoder2ForCausalLM),
    "granite": lambda: (t.GraniteConfig(**GROUPED), t.GraniteForCausalLM),
    "nemotron": lambda: (t.NemotronConfig(**GROUPED, head_dim=8), t.NemotronForCausalLM),
    "glm4": lambda: (t.Glm4Config(**GROUPED, head_dim=8), t.Glm4ForCausalLM),
}

MIXTURES = {
    "gpt_oss": lambda: (
        t.GptOssConfig(
            **{**GROUPED, "max_position_embeddings": 131072}, **LOCAL_EXPERTS, head_dim=8, sliding_window=16
        ),
        t.GptOssForCausalLM,
    ),
    "mixtral": lambda: (t.MixtralConfig(**GROUPED, **LOCAL_EXPERTS), t.MixtralForCausalLM),
    "qwen2_moe": lambda: (t.Qwen2MoeConfig(**GROUPED, **SHARED_EXPERT), t.Qwen2MoeForCausalLM),
    "qwen3_moe": lambda: (t.Qwen3MoeConfig(**GROUPED, **EXPERTS, head_dim=8), t.Qwen3MoeForCausalLM),
    "olmoe": lambda: (t.OlmoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2), t.OlmoeForCausalLM),
    "phimoe": lambda: (t.PhimoeConfig(**GROUPED, **LOCAL_EXPERTS), t.PhimoeForCausalLM),
    "ernie4_5_moe": lambda: (
        t.Ernie4_5_MoeConfig(**GROUPED, moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_num_shared_experts=1),
        t.Ernie4_5_MoeForCausalLM,
    ),
    "granitemoe": lambda: (t.GraniteMoeConfig(**GROUPED, **LOCAL_EXPERTS), t.GraniteMoeForCausalLM),
    "deepseek_v3": lambda: (t.DeepseekV3Config(**LATENT), t.DeepseekV3ForCausalLM),
    "switch_transformers": lambda: (
        t.SwitchTransformersConfig(
            **T5, num_experts=4, expert_capacity=64, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1
        ),
        t.SwitchTransformersForConditionalGeneration,
    ),
}

STATE_SPACES = {
    "mamba": lambda: (
        t.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8, **SPECIAL),
        t.MambaForCausalLM,
    ),
    "mamba2": lambda: (
        t.Mamba2Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            state_size=8,
            num_heads=8,
            head_dim=8,
            n_groups=2,
            chunk_size=8,
            **SPECIAL,
        ),
        t.Mamba2ForCausalLM,
    ),
    "jamba": lambda: (
        t.JambaConfig(
            **GROUPED,
            num_experts=4,
            num_experts_per_tok=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_d_state=8,
            mamba_dt_rank=4,
            use_mamba_kernels=False,  # transformers 4 will not compute without them
        ),
        t.JambaForCausalLM,
    ),
    "qwen3_next": lambda: (
        t.Qwen3NextConfig(
            **GROUPED,
            **SHARED_EXPERT,
            head_dim=8,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            layer_types=["linear_attention", "full_attention"],
        ),
        t.Qwen3NextForCausalLM,
    ),
    "recurrent_gemma": lambda: (
        t.RecurrentGemmaConfig(
            **{**SIZES, "num_hidden_layers": 3},
            intermediate_size=64,
            lru_width=32,
            attention_window_size=16,
            num_key_value_heads=1,
            **SPECIAL,
        ),
        t.RecurrentGemmaForCausalLM,
    ),
    "lfm2": lambda: (
        t.Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"], block_multiple_of=16),
        t.Lfm2ForCausalLM,
    ),
}

ENCODERS = {
    "bert": lambda: (t.BertConfig(**PLAIN), t.BertForMaskedLM),
    "roberta": lambda: (t.RobertaConfig(**PLAIN), t.RobertaForMaskedLM),
    "modernbert": lambda: (
        t.ModernBertConfig(**PLAIN, cls_token_id=1, sep_token_id=2, local_attention=8),
        t.ModernBertForMaskedLM,
    ),
    "albert": lambda: (t.AlbertConfig(**PLAIN, embedding_size=16), t.AlbertForMaskedLM),
    "electra": lambda: (t.ElectraConfig(**PLAIN, embedding_size=16), t.ElectraForPreTraining),
    "distilbert": lambda: (
        t.DistilBertConfig(
            vocab_size=VOCABULARY, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=64
        ),
        t.DistilBertForMaskedLM,
    ),
    "deberta_v2": lambda: (
        t.DebertaV2Config(
            **PLAIN,
            relative_attention=True,
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
        ),
        t.DebertaV2ForMaskedLM,
    ),
    "esm": lambda: (t.EsmConfig(**PLAIN, mask_token_id=3, position_embedding_type="rotary"), t.EsmForMaskedLM),
    "xlnet": lambda: (
        t.XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=64, **SPECIAL),
        t.XLNetLMHeadModel,
    ),
}

ENCODER_DECODERS = {
    "t5": lambda: (t.T5Config(**T5), t.T5ForConditionalGeneration),
    "umt5": lambda: (t.UMT5Config(**T5, **UNTIED), t.UMT5ForConditionalGeneration),
    "bart": lambda: (t.BartConfig(**SEQ2SEQ), t.BartForConditionalGeneration),
    "marian": lambda: (t.MarianConfig(**SEQ2SEQ), t.MarianMTModel),
    "pegasus": lambda: (t.PegasusConfig(**SEQ2SEQ), t.PegasusForConditionalGeneration),
}

TEXT = DECODERS | MIXTURES | STATE_SPACES | ENCODERS | ENCODER_DECODERS
WITH_DECODER_INPUTS = frozenset({*ENCODER_DECODERS, "switch_transformers"})
