"""Evaluate what was trained: `python tools/test.py CONFIG work_dirs/<run>/best.pth`."""

import argparse

from mmengine.config import DictAction

from visionssm.training import leave_process_group, load_config, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="mmengine config file")
    parser.add_argument("checkpoint", help="best.pth or last.pth of a run")
    parser.add_argument("--work-dir", help="default: work_dirs/<config name>")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, help="override settings of the config"
    )
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    args = parser.parse_args()

    try:
        cfg = load_config(args.config, args.work_dir, args.cfg_options, args.launcher)
        test(cfg, args.checkpoint)
    except ValueError as error:
        parser.error(str(error))
    leave_process_group()


if __name__ == "__main__":
    main()
