import sys

from bert_tools.cli.cluster_sentences import main

sys.exit(main())
