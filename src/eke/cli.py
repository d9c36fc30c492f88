"""The command line. Help imports neither torch nor numpy: each command imports its task when it runs."""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from eke.errors import EkeError

app = typer.Typer(
    name="eke",
    help="Make a few labels go far: train an image classifier from few labels, and see what they bought.\n\n"
    "Start with `eke demo`, then `eke doctor DATA`, then `eke fit DATA`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders (and unlabeled/), a folder with labels.csv, a CSV, Parquet or JSONL "
        "manifest, a Hugging Face image parquet, a zip of any of these, an .npz, or 'digits'.",
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that `eke fit` or `eke pretrain` wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, nothing else.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write. Nothing that exists is ever deleted.")]
Test = Annotated[
    str | None,
    typer.Option("--test", metavar="SOURCE", help="Labeled test images, read once, at the end."),
]
Labels = Annotated[
    list[Path] | None,
    typer.Option("--labels", help="CSV with path (or id) and label. Repeatable; later files win."),
]
PerClass = Annotated[
    int | None,
    typer.Option("--labels-per-class", help="Use only so many of the labels per class (training + validation)."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="small, resnet20, resnet18, resnet50, wrn-28-2 ..., any timm or torchvision name."),
]
Steps = Annotated[int | None, typer.Option("--steps", help="Training steps.")]
Init = Annotated[
    Path | None,
    typer.Option("--init", metavar="RUN", help="Start from the network of this run, pretrained or fitted."),
]
TrainingSeed = Annotated[int | None, typer.Option("--seed", help="Seed of split, weights, batches and views.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="YAML or JSON file of options, such as a run's config.json.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with an interrupted run, exactly; begin it where there is none.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of split, weights, batches and views.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="a.b=c",
        help="Set any option, for example batch.mu=4. Repeatable; `eke methods NAME` lists them all.",
    ),
]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if show:
        from eke.version import __version__

        print(__version__)
        raise typer.Exit


@app.command(short_help="40 labels of real digits: a tour in a minute.")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the run and its report.")] = Path("eke-demo"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Real handwritten digits, 40 labels: supervised beside FixMatch, with a report, in about a minute."""
    from eke.tasks.demo import run_demo

    _show(run_demo(out, seed, _progress()), as_json)


@app.command(short_help="What is in a data set, and what is wrong.")
def doctor(
    data: Data,
    test: Test = None,
    labels: Labels = None,
    group_level: Annotated[
        bool, typer.Option("--group-level", help="The folder below the class folder is the group: data.group_level.")
    ] = False,
    run: Annotated[Path | None, typer.Option("--run", help="A trained run: names labels that look wrong.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a.b=c", help="How recordings are cut, such as clip.seconds=2. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in a data set and what is wrong with it, before any training."""
    from dataclasses import asdict

    from eke.config import from_assignments, parse
    from eke.tasks.diagnosis import render
    from eke.tasks.doctor import DoctorOptions, diagnose
    from eke.tasks.evaluate import open_source, predict_opened

    progress = _progress()
    predictions = predict_opened(open_source(run, data, progress, labeled=True), progress) if run else None
    clip = parse(DoctorOptions, from_assignments(assignments or [])).clip
    diagnosis = diagnose(
        data, test, labels=labels or [], group_level=group_level, clip=clip, predictions=predictions, progress=progress
    )
    _print_json(asdict(diagnosis)) if as_json else print(render(diagnosis))


@app.command(short_help="Train, evaluate and report.")
def fit(
    data: Data,
    method: Annotated[
        str | None,
        typer.Option("--method", help="METHOD or METHOD/PRESET, by default fixmatch; `eke methods` lists them."),
    ] = None,
    test: Test = None,
    labels: Labels = None,
    labels_per_class: PerClass = None,
    model: Model = None,
    init: Init = None,
    steps: Steps = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Time instead of steps, such as 20m or 2h: baseline included."),
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline",
            help="auto = train a supervised one with the same labels; none; or a RUN to compare with.",
        ),
    ] = "auto",
    out: Out = None,
    seed: TrainingSeed = None,
    assignments: Set = None,
    config: Config = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier from few labels and many images, evaluate it, and write a report.

    Precedence: defaults < the method's recipe < its preset < --init < --config < --set < the other flags.

    Example: eke fit photos/ --test held-out/ --labels-per-class 25 --method fixmatch --budget 20m
    """
    from eke.tasks.fit import fit as run_fit
    from eke.tasks.options import resolve

    flags = _training_flags(data, test, labels, labels_per_class, model, init, steps, budget, seed)
    flags["baseline"] = baseline if baseline != "auto" else None
    _show(
        run_fit(resolve(method, flags, assignments or [], config), out, resume=resume, progress=_progress()),
        as_json,
    )


@app.command(short_help="Make two explanations of a run agree.")
def harmonize(
    run: Run,
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="Unlabeled images from elsewhere; by default the run's own."),
    ] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", help="finetune reads no label; combined and alternated do.")
    ] = "finetune",
    stop: Annotated[
        str,
        typer.Option(
            "--stop",
            help="Which weights count: labels = of the best accuracy on validation images; agreement = without labels, "
            "those whose explanations of them agree most; last.",
        ),
    ] = "labels",
    layer: Annotated[str | None, typer.Option("--layer", help="Whose Grad-CAM; by default the deepest.")] = None,
    steps: Steps = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Time instead of steps, such as 20m.")] = None,
    out: Out = None,
    assignments: Set = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a trained run until Grad-CAM and guided backpropagation agree, and compare it with what it was.

    Images, labels and split are the run's. Its report shows both explanations before and after.

    Example: eke harmonize runs/photos deployment-photos/ --steps 200 --out runs/photos-harmonized
    """
    from eke.tasks.harmonize import harmonize as run_harmonize

    flags = {"steps": steps, "budget": budget, "method": {"strategy": strategy, "layer": layer}}
    _show(
        run_harmonize(
            run, data, out, stop=stop, flags=flags, assignments=assignments or [], resume=resume, progress=_progress()
        ),
        as_json,
    )


@app.command(short_help="Learn from images without labels.")
def pretrain(
    data: Data,
    method: Annotated[
        str | None,
        typer.Option("--method", help="Self-supervised method, by default simclr; `eke methods` lists them."),
    ] = None,
    test: Test = None,
    labels: Labels = None,
    labels_per_class: PerClass = None,
    model: Model = None,
    init: Init = None,
    steps: Steps = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Time instead of steps, such as 20m or 2h.")] = None,
    out: Out = None,
    seed: TrainingSeed = None,
    assignments: Set = None,
    config: Config = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a network on images without their labels; `eke fit --init RUN` starts from it, `eke probe` judges it.

    Labels, where there are any, only watch: a kNN accuracy beside the spread of the embeddings. Images that test or
    validate are left out.

    Example: eke pretrain photos/ --test held-out/ --method barlow_twins --budget 1h
    """
    from eke.tasks.options import resolve_pretrain
    from eke.tasks.pretrain import pretrain as run_pretrain
    from eke.tasks.pretrain import render

    flags = _training_flags(data, test, labels, labels_per_class, model, init, steps, budget, seed)
    options = resolve_pretrain(method, flags, assignments or [], config)
    done = run_pretrain(options, out, resume=resume, progress=_progress())
    if done is not None:
        _print_json(done) if as_json else print(render(done))


@app.command(short_help="How good a run's embeddings are.")
def probe(
    run: Run,
    data: Data,
    test: Test = None,
    labels: Labels = None,
    labels_per_class: PerClass = None,
    out: Out = None,
    seed: TrainingSeed = None,
    assignments: Set = None,
    as_json: AsJson = False,
) -> None:
    """Classify by a run's frozen embeddings: a linear probe and nearest neighbors, beside an untrained network.

    Full fine-tuning is `eke fit DATA --method supervised --init RUN`.
    """
    from eke.tasks.options import resolve
    from eke.tasks.probe import probe as run_probe
    from eke.tasks.probe import render

    flags = _training_flags(data, test, labels, labels_per_class, None, run, None, None, seed)
    figures = run_probe(run, resolve("supervised", flags, assignments or []), out, _progress())
    _print_json(figures) if as_json else print(render(figures))


@app.command(short_help="Which images to label next.")
def ask(
    run: Run,
    data: Data,
    n: Annotated[int, typer.Option("--n", help="How many images.")] = 100,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="eke strategies lists them, such as margin, badge, typiclust, varratio_mc; eba:ig@LAYER,LAYER = like "
            "the run's mistakes; auto = by the number of labels.",
        ),
    ] = "auto",
    out: Annotated[
        Path,
        typer.Option("--out", help="CSV to write, with an empty label to fill in; beside it a page that shows why."),
    ] = Path("ask.csv"),
    control: Annotated[
        float, typer.Option("--control", help="Share that is drawn at random, for eke gain to measure by.")
    ] = 0.1,
    passes: Annotated[
        int, typer.Option("--passes", help="Passes with dropout, or steps of attention; the papers' is 128.")
    ] = 32,
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(
            "--ensemble",
            metavar="RUN2",
            help="A further run on the same labels, such as of another seed, whose disagreement takes the place of "
            "passes with dropout; repeatable.",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Label store (SQLite): what is answered or waits in it is not asked again."),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Choose the images whose labels are asked for next; fill in the CSV, then eke fit DATA --labels ask.csv."""
    from eke.tasks.ask import ask as run_ask
    from eke.tasks.ask import render

    asked = run_ask(
        run,
        data,
        n,
        strategy,
        out,
        seed,
        _progress(),
        control_rate=control,
        n_passes=passes,
        store=store,
        ensemble=ensemble or (),
    )
    _print_json(asked) if as_json else print(render(asked))


@app.command(short_help="What a network sees in images.")
def explain(
    run: Run,
    images: Data,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="activations (default): feature maps of layers, early to late. Or where the network looks: gradcam, "
            "gradcam++, layercam, hirescam, cam, guided, guided-gradcam, saliency, smoothgrad, integrated-gradients; "
            "repeatable, side by side.",
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="Layer by name; repeatable. By default four, early to late, for activations, else the deepest.",
        ),
    ] = None,
    wanted: Annotated[
        str, typer.Option("--class", help="The class that is explained: predicted, true (the label), or its name.")
    ] = "predicted",
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="RUN2",
            help="A run after RUN, one row each: does it look at the same place of an image and of an augmented view "
            "of it? Repeatable; one map, by default gradcam.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="How many images, spread evenly over the source.")] = 8,
    faithful: Annotated[
        bool,
        typer.Option("--faithful", help="Also measure attention maps: insertion and deletion, beside random maps."),
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for sheets and raw maps.")] = Path("explained"),
    as_json: AsJson = False,
) -> None:
    """Draw maps of what a network sees in images: one sheet per image, and the raw maps.

    Example: eke explain runs/photos new-photos/ --map gradcam --map layercam --layer layer3 --out maps
    """
    from eke.tasks.explain import explain as run_explain
    from eke.tasks.explain import render

    done = run_explain(
        run,
        images,
        out,
        maps=tuple(maps or ()),
        layers=tuple(layers or ()),
        wanted=wanted,
        against=tuple(against or ()),
        n_images=n,
        faithful=faithful,
        progress=_progress(),
    )
    _print_json(done) if as_json else print(render(done))


@app.command("eval", short_help="Evaluate a run on labeled images.")
def evaluate(run: Run, data: Data, as_json: AsJson = False) -> None:
    """Evaluate a trained run on labeled images: accuracy, macro-F1, calibration, with intervals."""
    from eke.tasks.evaluate import evaluate as run_evaluate
    from eke.tasks.evaluate import render

    figures = run_evaluate(run, data, _progress())
    _print_json(figures) if as_json else print(render(figures))


@app.command(short_help="Predict images into a CSV.")
def predict(
    run: Run,
    images: Data,
    out: Annotated[Path, typer.Option("--out", help="CSV to write: id, path, class, probability.")] = Path("preds.csv"),
    as_json: AsJson = False,
) -> None:
    """Predict the class of each image and write a CSV."""
    from eke.tasks.predict import predict as run_predict

    done = run_predict(run, images, out, _progress())
    _print_json(done) if as_json else print(f"Wrote {done['n_images']} predictions to {done['path']}.")


@app.command(short_help="Write the network as ONNX or torch.export.")
def export(
    run: Run,
    format_: Annotated[str, typer.Option("--format", help="onnx or torch (torch.export).")] = "onnx",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Export the trained network, preprocessing included, and check that it computes the same."""
    from eke.tasks.export import export as run_export

    done = run_export(run, format_, out)
    text = f"Wrote {done['path']}: largest difference to the model's probabilities {done['difference']:.1e}."
    _print_json(done) if as_json else print(text)


@app.command(short_help="Runs side by side, with intervals.")
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; one alone is compared with its baseline.")
    ],
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")] = Path("compare.html"),
    test: Annotated[
        str,
        typer.Option(
            "--test", help="paired, on the same images; or unpaired, where the runs were measured on different ones."
        ),
    ] = "paired",
    equal_images: Annotated[
        bool,
        typer.Option("--equal-images", help="Add supervised baselines that see as many images as each run did."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Lay runs side by side: figures with intervals, differences, curves in one chart.

    A star marks what survives Holm's correction for all the differences shown.
    """
    from eke.tasks.compare import compare as run_compare
    from eke.tasks.compare import render

    figures = run_compare(runs, out, test=test, equal_images=equal_images, progress=_progress())
    _print_json(figures) if as_json else print(render(figures))


@app.command(short_help="A published table, run again.")
def reproduce(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="One of docs/reproduce.md, such as comatch-table2.")],
    scale: Annotated[
        str, typer.Option("--scale", help="smoke = about a minute; cpu = for one core; paper = for an accelerator.")
    ] = "smoke",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder of the images that the table reads; without it: downloaded, where it can be."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs and the page.")] = Path("reproduced"),
    seeds: Annotated[int | None, typer.Option("--seeds", help="How many seeds; by default the scale's.")] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a published table's cells at a scale that fits, and judge each of its claims by its interval.

    Finished cells are kept: the same command goes on after a kill, and several may work side by side.
    """
    from eke.tables.reproduce import plan, render
    from eke.tables.reproduce import reproduce as run_reproduce

    if only_plan:
        print(plan(table, scale, data, out, seeds))
        return
    done = run_reproduce(table, scale, data, out, seeds, _progress())
    _print_json(done) if as_json else print(render(done))


@app.command(short_help="Strategies of asking, replayed with hidden labels.")
def simulate(
    data: Data,
    strategies: Annotated[
        str, typer.Option("--strategies", help="As `eke ask` has them, apart by commas; random is always there.")
    ] = "random,entropy,badge",
    rounds: Annotated[int, typer.Option("--rounds", help="Requests after the first, random batch.")] = 9,
    batch: Annotated[int, typer.Option("--batch", help="Images of each.")] = 250,
    seeds: Annotated[int, typer.Option("--seeds", help="Paired seeds; intervals need at least 2.")] = 5,
    imbalance: Annotated[
        str, typer.Option("--imbalance", help="Ratios of frequent to rare images of the pool, apart by commas.")
    ] = "1",
    distort: Annotated[
        str,
        typer.Option(
            "--distort",
            help="What is rare: none = the second half of the classes; long_tail; within_class = bright images; "
            "perturbed = as none, with noise or blur on three tenths of the pool.",
        ),
    ] = "none",
    noise: Annotated[float, typer.Option("--noise", help="Share of the pool that is answered wrongly.")] = 0.0,
    passes: Annotated[
        int, typer.Option("--passes", help="Passes with dropout, or steps of attention; the papers' is 128.")
    ] = 32,
    val: Annotated[
        int | None,
        typer.Option("--val", help="Random labeled validation images; by default a tenth, at most 1,000."),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="METHOD or METHOD/PRESET, trained anew in each round.")
    ] = "supervised",
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            help="Method of eke pretrain: every network begins from one that it trained on the pool without labels. By "
            "default from scratch.",
        ),
    ] = None,
    start_steps: Annotated[int, typer.Option("--start-steps", help="Steps of that.")] = 1000,
    test: Test = None,
    model: Model = None,
    steps: Steps = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the data, the runs and the page.")] = Path("simulated"),
    assignments: Set = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay active learning on labeled images with hidden labels, to see which strategy's labels are worth most.

    Finished cells are kept: the same command goes on after a kill, and several may work side by side.

    Example: eke simulate digits --strategies random,margin --rounds 4 --batch 20 --seeds 3 --steps 200
    """
    from eke.config import from_assignments, merge
    from eke.tasks.simulate import plan, render
    from eke.tasks.simulate import simulate as run_simulate
    from eke.tasks.simulate_options import SimulateOptions

    flags: dict[str, Any] = {"steps": steps} if steps else {}
    flags = merge(from_assignments(assignments or []), flags | ({"model": {"name": model}} if model else {}))
    options = SimulateOptions(
        source=data,
        test=test,
        strategies=[word.strip() for word in strategies.split(",")],
        rounds=rounds,
        batch=batch,
        seeds=seeds,
        imbalance=_ratios(imbalance),
        distortion=distort,
        noise=noise,
        n_passes=passes,
        n_val=val,
        method=method,
        flags=flags,
        start=start,
        start_steps=start_steps,
    )
    if only_plan:
        print(plan(options, out))
        return
    done = run_simulate(options, out, _progress())
    _print_json(done) if as_json else print(render(done))


def _ratios(text: str) -> list[float]:
    from eke.errors import ConfigError

    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--imbalance {text}: give ratios of 1 or more, apart by commas, such as 1,10,100.") from None


@app.command(short_help="Write a run's report anew.")
def report(run: Run, as_json: AsJson = False) -> None:
    """Write a run's report.html anew from its folder."""
    from eke.tasks.pretrain_report import write_report_of

    path = write_report_of(run, _progress())
    _print_json({"report": str(path)}) if as_json else print(f"Wrote {path}.")


@app.command(short_help="The training methods and all options.")
def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A method, to see its paper and options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the training methods, or show one: its paper, views, defaults and options."""
    from eke.tasks.methods import describe, render

    described = describe(name)
    _print_json(described) if as_json else print(render(described))


@app.command(short_help="What labels bought, and when to stop.")
def gain(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of successive rounds, on one source.")],
    more: Annotated[int, typer.Option("--more", help="How many labels would be bought next.")] = 100,
    worth: Annotated[
        float, typer.Option("--worth", help="Gain in accuracy that they should bring; 0.01 is one point.")
    ] = 0.01,
    random: Annotated[
        list[Path] | None,
        typer.Option("--random", metavar="RUN", help="A run with as many labels drawn at random, to compare with."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write a page with the curve.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the labels of eke ask bought, by the control images among them, and whether more are worth it."""
    from eke.tasks.gain import gain as run_gain
    from eke.tasks.gain import render

    measured = run_gain(runs, more, worth, out, _progress(), random or ())
    _print_json(measured) if as_json else print(render(measured))


@app.command(short_help="Ways to choose the images to label next.")
def strategies(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A strategy, to see what it needs.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the strategies of eke ask, or show one: what it chooses and what it needs."""
    from eke.tasks.strategies import describe, render

    described = describe(name)
    _print_json(described) if as_json else print(render(described))


def main() -> None:
    """Run the command line: an error that eke raises is printed as one message, with its exit code."""
    warnings.filterwarnings("ignore", ".*decompression bomb")  # eke has a limit of its own and names such images
    with _errors_as_messages():
        app()


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    try:
        yield
    except EkeError as error:
        print(f"eke: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("eke: interrupted; a run goes on with --resume.", file=sys.stderr)
        sys.exit(130)


def _training_flags(
    data: str,
    test: str | None,
    labels: list[Path] | None,
    labels_per_class: int | None,
    model: str | None,
    init: Path | None,
    steps: int | None,
    budget: str | None,
    seed: int | None,
) -> dict[str, Any]:
    """Nest the flags that training commands share, as `eke.tasks.options.resolve` takes them."""
    return {
        "source": data,
        "test": test,
        "labels": [str(file) for file in labels] if labels else None,
        "steps": steps,
        "budget": budget,
        "seed": seed,
        "init": str(init) if init else None,
        "data": {"labels_per_class": labels_per_class},
        "model": {"name": model},
    }


def _progress() -> Any:
    from eke.progress import bars

    return bars


def _show(done: Any, as_json: bool) -> None:
    """Print what a training command made: a table, and the paths of what it wrote."""
    if done is None:  # a rank other than 0
        return
    from eke.tasks.fit import render

    _print_json(done) if as_json else print(render(done))


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str))
