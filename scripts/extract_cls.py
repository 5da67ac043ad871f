import sys

from bert_tools.cli.extract_cls import main

sys.exit(main())
