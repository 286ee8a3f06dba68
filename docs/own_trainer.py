"""IAPO's reward in a TRL script of your own: the mixin in front of GRPOTrainer, the reward among the others."""

from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import iapo


class MyTrainer(iapo.AttributionMixin, GRPOTrainer):
    """Your trainer; every group's calls are attributed before the rewards are asked."""


def train(student: Path, cache: Path, data: Path, output: Path, steps: int) -> None:
    model, processor = iapo.load_model(student)
    questions = iapo.read_split(data, "train", ("h_bar", "v_bar"))[:16]
    never = processor.tokenizer.convert_tokens_to_ids(list(iapo.SUPPRESSED_TOKENS))
    arguments = GRPOConfig(
        output_dir=str(output), max_steps=steps, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=48, max_tool_calling_iterations=1, reward_weights=[1.0, 0.5], scale_rewards="none",
        use_cpu=True, bf16=False, save_strategy="no", report_to="none", logging_steps=1,
        generation_kwargs={"suppress_tokens": never},
    )  # fmt: skip
    trainer = MyTrainer(
        model=model, processing_class=processor, args=arguments, cache=iapo.TeacherCache(cache),
        train_dataset=Dataset.from_list([iapo.dataset_row(question) for question in questions]),
        environment_factory=iapo.ENVIRONMENTS, reward_funcs=[iapo.outcome_reward, iapo.alignment_reward],
    )  # fmt: skip
    trainer.train()
    for row in trainer.state.log_history[:steps]:
        right, penalty = row["rewards/outcome_reward/mean"], 0.0 - row["rewards/alignment_reward/mean"]
        print(f"step {row['step']}: reward {row['reward']:.3f} = {right:.3f} right - 0.5 * {penalty:.3f} penalty")
    iapo.save_model(trainer.policy, processor, output / "model")
    print(f"saved: {output / 'model'}")


if __name__ == "__main__":
    run = Path("results/mini")
    train(run / "models/student/cold/start0", run / "teacher/start0/cache/main", run / "data", Path("results/own"), 10)
