"""The DeepSpeed-ZeRO learners: forward, per-domain gradient shards, surgery, step, checkpoints."""
