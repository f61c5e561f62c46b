"""verifiers: the questions as an environment, for prime-rl and every other trainer that runs those.

verifiers finds it by the name `closedbook` (`harness/package.py` hands it on). What would surprise:

- Where the judge fails the rollout fails, since verifiers knows no rollout without a reward. Trainers leave a failed
  rollout out of its group; a 0 would teach the model about the judge's server. A run counts failed rollouts itself, so
  `max_failures` is not looked at.
- The model is asked once, from the environment's process. verifiers' own default is a shell in a remote sandbox, in
  which answers can be looked up, and its harness without tools starts a process for each answer.
- Train is the split unless another one is asked for. verifiers has no second data set for evaluation: name the same
  environment again with another split.

    $ vf-eval closedbook --env.taskset.benchmark popqa --env.taskset.split validation -m MODEL --client.base-url URL
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf
from openai import AsyncOpenAI, DefaultAioHttpClient
from pydantic import ValidationError, field_validator

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.judge import JudgeFailure, JudgeSettings, Triple, judge_settings
from closedbook.harness.judge.arrivals import arrivals_of
from closedbook.harness.judge.settings import JudgeStated
from closedbook.harness.manifests import Split, load_questions
from closedbook.harness.metrics import Answer, metric_names, metrics
from closedbook.harness.prompts import Style, extract_answer, question_prompt
from closedbook.harness.sources import benchmark as benchmark_of
from closedbook.harness.task_files import cut, generation

REWARD = "judge_correct"


class QuestionData(vf.TaskData):
    """A question as verifiers sends it about; `id` and `prompt` are verifiers' own fields.

    Attributes:
        question: The text.
        answers: The gold answers.
        style: Of the prompt.
        stop: What ends a reply, for which a trainer need not stop the model.
    """

    question: str
    answers: tuple[str, ...]
    style: Style
    stop: tuple[str, ...]


class ScoringConfig(vf.TaskConfig):
    """How answers are graded.

    Attributes:
        judge: Settings of the judge, or its kind; None for the environment's, CLOSEDBOOK_JUDGE and the like, or rules.
    """

    judge: JudgeStated = None

    @field_validator("judge")
    @classmethod
    def _can_be_had(cls, stated: JudgeStated) -> JudgeStated:
        try:
            _settings(stated)
        except RequestError as error:
            raise ValueError(str(error)) from None
        return stated


class QuestionTask(vf.Task[QuestionData, vf.State, ScoringConfig]):
    """A question, and how its answer is graded."""

    @property
    def key(self) -> str:
        """The question's id, which is equal on every mirror."""
        return str(self.data.id)

    @vf.reward
    async def judge_correct(self, trace: vf.Trace) -> float:
        """1 for a correct answer, 0 for any other that could be graded; the other metrics are noted beside it.

        Raises:
            WorkError: The judge failed, which fails the rollout.
        """
        settings = _settings(self.config.judge)
        text, golds = extract_answer(cut(trace.last_reply, self.data.stop), self.data.style), self.data.answers
        arrivals = arrivals_of(settings)
        judgement = await arrivals.grade(Triple(self.data.question, golds, text))
        answer = Answer(text, judgement)
        values = metrics([answer], golds)
        trace.info["closedbook"] = {"answer": str(answer), "judge": dict(arrivals.judge.identity)}
        noted = [name for name in metric_names(settings.prompt) if name != REWARD and not math.isnan(values[name])]
        trace.record_metrics({name: values[name] for name in noted})
        if isinstance(judgement, JudgeFailure):
            raise WorkError(f"the judge failed: {judgement}")
        return values[REWARD]


class ClosedbookConfig(vf.TasksetConfig):
    """Which questions, and how they are asked.

    Attributes:
        benchmark: As `closedbook data list` names it.
        split: train, validation or test.
        style: Of the prompt: direct or cot.
    """

    benchmark: str = "worldfacts"
    split: Split = "train"
    style: Style = "direct"
    task: ScoringConfig = ScoringConfig()

    @field_validator("benchmark")
    @classmethod
    def _is_there(cls, name: str) -> str:
        try:
            return benchmark_of(name).name
        except RequestError as error:
            raise ValueError(str(error)) from None


class ClosedbookTaskset(vf.Taskset[QuestionTask, ClosedbookConfig]):
    """The questions of a split, in the order of `load_questions`, which is as good as shuffled."""

    def load(self) -> Iterator[QuestionTask]:
        """The questions.

        Raises:
            SourceError, ManifestError: They cannot be had as the manifest pins them.
        """
        style = self.config.style
        stop = generation(self.config.benchmark, style).stop
        for question in load_questions(self.config.benchmark, self.config.split):
            data = QuestionData(
                id=question.id,
                prompt=question_prompt(question.question, style),
                question=question.question,
                answers=question.answers,
                style=style,
                stop=stop,
            )
            yield QuestionTask(data, self.config.task)


class AskOnce(vf.Harness[vf.HarnessConfig]):
    """Sends the prompt as the user's turn and takes what comes back: one call, no tools."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Ask; verifiers, which stands behind the endpoint, notes the exchange in the trace."""
        turns = zip(("system", "user"), self.resolve_text_prompt(data), strict=True)
        asked: list[Any] = [{"role": role, "content": text} for role, text in turns if text is not None]
        http = DefaultAioHttpClient()  # httpx's own would read the system's certificates for every answer
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None, http_client=http) as client:
            await client.chat.completions.create(model=ctx.model, messages=asked)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class ClosedbookEnvConfig(vf.SingleAgentEnvConfig):
    """verifiers' single agent, on this machine rather than in a sandbox: it runs nothing."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class ClosedbookEnv(vf.SingleAgentEnv, vf.Env[ClosedbookEnvConfig]):
    """verifiers' single-agent environment, with a judge that is tried before the first question is asked."""

    async def start(self) -> None:
        """Have the judge grade a known answer.

        Raises:
            RequestError, WorkError: It cannot work.
        """
        await arrivals_of(_settings(self.config.taskset.task.judge)).preflight()


def load_environment(
    benchmark: str = "worldfacts",
    split: Split = "train",
    style: Style = "direct",
    judge: JudgeStated = None,
) -> ClosedbookEnv:
    """The environment that `verifiers.v1.load_environment` makes of such a configuration.

    Args:
        benchmark: As `closedbook data list` names it.
        split: train, validation or test.
        style: Of the prompt: direct or cot.
        judge: Settings of the judge, or its kind; None for the environment's, CLOSEDBOOK_JUDGE and the like, or rules.

    Raises:
        RequestError: No such benchmark, split or style, or a judge that is wrongly set up.
    """
    chosen = {"benchmark": benchmark, "split": split, "style": style}
    task = {"judge": judge}
    try:
        config = vf.resolve_env_config({"taskset": {"id": "closedbook", "task": task, **chosen}})
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{'.'.join(map(str, first['loc']))}: {said}") from None
    env: ClosedbookEnv = vf.load_environment(config)
    return env


def _settings(stated: JudgeStated) -> JudgeSettings:
    """Settings of the judge: as stated, the environment's, or rules."""
    return judge_settings({"judge": stated}, "rules")
