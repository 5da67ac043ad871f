import sys

from bert_tools.cli.extract_features import main

sys.exit(main())
