"""Train a classifier, detector or segmentor: `python tools/train.py configs/<task>/<name>.py`.

Several processes: `torchrun --nproc-per-node 8 tools/train.py CONFIG --launcher pytorch`.
"""

import argparse

from mmengine.config import DictAction

from visionssm.training import leave_process_group, load_config, train, use_amp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="mmengine config file")
    parser.add_argument("--work-dir", help="default: work_dirs/<config name>")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in the work dir"
    )
    parser.add_argument(
        "--amp",
        nargs="?",
        const="bfloat16",
        choices=("bfloat16", "float16"),
        help="mixed precision; bfloat16 if no dtype is given",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="override settings, such as train_cfg.max_epochs=3 train_dataloader.batch_size=64",
    )
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    args = parser.parse_args()

    try:
        cfg = load_config(args.config, args.work_dir, args.cfg_options, args.launcher)
        if args.amp:
            use_amp(cfg, args.amp)
    except ValueError as error:
        parser.error(str(error))
    train(cfg, resume=args.resume)
    leave_process_group()


if __name__ == "__main__":
    main()
