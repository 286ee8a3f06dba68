"""IAPO's reward in a TRL script of your own: the mixin in front of GRPOTrainer, the reward among the others."""

from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from iapo.data.selection import dataset_row
from iapo.data.store import read_split
from iapo.models.loading import load_model
from iapo.rewards.alignment import alignment_reward
from iapo.rewards.outcome import outcome_reward
from iapo.rollout.environment import ENVIRONMENTS
from iapo.teacher.cache import TeacherCache
from iapo.training.attribution_mixin import AttributionMixin


class MyTrainer(AttributionMixin, GRPOTrainer):
    """Your trainer; every group's calls are attributed before the rewards are asked."""


def train(student: Path, cache: Path, data: Path, output: Path, steps: int) -> None:
    model, processor = load_model(student)
    questions = read_split(data, "train", ("h_bar", "v_bar"))[:16]
    arguments = GRPOConfig(
        output_dir=str(output), max_steps=steps, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=48, max_tool_calling_iterations=1, reward_weights=[1.0, 0.5], report_to="none",
        use_cpu=True, bf16=False, save_strategy="no",
    )  # fmt: skip
    trainer = MyTrainer(
        model=model, processing_class=processor, args=arguments, cache=TeacherCache(cache),
        train_dataset=Dataset.from_list([dataset_row(question) for question in questions]),
        environment_factory=ENVIRONMENTS, reward_funcs=[outcome_reward, alignment_reward],
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    run = Path("results/mini")
    train(run / "models/student/cold/start0", run / "teacher/start0/cache/main", run / "data", Path("results/own"), 10)
