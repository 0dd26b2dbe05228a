"""What requests ask: real text of our own or a user's, in exact numbers of tokens.

question      what a workload makes, and where it is written    planning      workload and loads -> a frozen plan
lengths       distributions of lengths                          prompts       passages of the corpus, cut to length
synthetic     drawn lengths                                     shared_prefix prompts that begin alike
conversation  turns with recorded answers and think time        dataset       a user's file: sharegpt, table
traced        the lengths and shared beginnings of a trace      sharing       how much of a prompt was sent before
"""

from enginebay.loadtest.workloads.conversation import ConversationWorkload, ThinkTime
from enginebay.loadtest.workloads.corpus import read_corpus
from enginebay.loadtest.workloads.dataset import DatasetWorkload
from enginebay.loadtest.workloads.lengths import (
    EmpiricalLengths,
    FixedLength,
    Lengths,
    LogNormalLengths,
    NormalLengths,
    UniformLengths,
)
from enginebay.loadtest.workloads.planning import Quantity, make_plan
from enginebay.loadtest.workloads.prompts import PromptWriter
from enginebay.loadtest.workloads.question import PromptForm, Workload
from enginebay.loadtest.workloads.shared_prefix import SharedPrefixWorkload
from enginebay.loadtest.workloads.sharegpt import read_sharegpt
from enginebay.loadtest.workloads.synthetic import SyntheticWorkload
from enginebay.loadtest.workloads.table import TableFields, read_table
from enginebay.loadtest.workloads.traced import TraceWorkload

__all__ = [
    "ConversationWorkload",
    "DatasetWorkload",
    "EmpiricalLengths",
    "FixedLength",
    "Lengths",
    "LogNormalLengths",
    "NormalLengths",
    "PromptForm",
    "PromptWriter",
    "Quantity",
    "SharedPrefixWorkload",
    "SyntheticWorkload",
    "TableFields",
    "ThinkTime",
    "TraceWorkload",
    "UniformLengths",
    "Workload",
    "make_plan",
    "read_corpus",
    "read_sharegpt",
    "read_table",
]
