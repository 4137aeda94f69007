"""``python -m medi_monai init FOLDER``: the start of a cohort."""

from medi_monai.runs.init import main

if __name__ == "__main__":
    main()
