"""Puts an engine together from its settings."""

from __future__ import annotations

from enginebay.clock import Clock
from enginebay.engine.block_pool import BlockPool
from enginebay.engine.engine import Engine
from enginebay.engine.limits import EngineLimits
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.policies import build_policy
from enginebay.engine.prefix_cache import PrefixCache
from enginebay.engine.sampler import Sampler
from enginebay.engine.scheduler import Scheduler
from enginebay.engine.settings import EngineConfig
from enginebay.engine.speculation.build import build_speculator
from enginebay.engine.warm_up import warm_up


def build_engine(config: EngineConfig, clock: Clock) -> Engine:
    """Load the weights and take the memory of the KV cache. Raises ConfigError or ModelError."""
    return assemble(config, ModelRunner(config), clock)


def assemble(config: EngineConfig, runner: ModelRunner, clock: Clock) -> Engine:
    """Raises ConfigError. Apart from `build_engine` so that the caller can ask the runner what it found."""
    model = runner.model_config
    sampler = Sampler(vocab_size=model.vocab_size, eos_token_ids=model.eos_token_ids, device=runner.device)
    warm_up(runner, sampler, max_model_len=runner.max_model_len, block_size=runner.block_size)
    pool = BlockPool(runner.num_blocks)
    prefix_cache = None
    if config.enable_prefix_caching and config.policy != "static":
        prefix_cache = PrefixCache(pool, block_size=runner.block_size, length_class=model.rope.length_class)
    return Engine(
        scheduler=Scheduler(
            build_policy(config, max_model_len=runner.max_model_len),
            pool,
            block_size=runner.block_size,
            prefix_cache=prefix_cache,
        ),
        runner=runner,
        sampler=sampler,
        limits=EngineLimits(
            max_model_len=runner.max_model_len,
            num_blocks=runner.num_blocks,
            block_size=runner.block_size,
            vocab_size=model.vocab_size,
        ),
        eos_token_ids=model.eos_token_ids,
        clock=clock,
        speculator=build_speculator(config, runner),
    )
