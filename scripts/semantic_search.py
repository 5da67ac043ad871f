import sys

from bert_tools.cli.semantic_search import main

sys.exit(main())
