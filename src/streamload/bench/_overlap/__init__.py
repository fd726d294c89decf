"""`streamload bench overlap`: how much of moving weights is hidden behind computing.

Floor 6, part of `bench`; needs torch and safetensors. The map:

    _run        the whole benchmark, from checkpoint to result
    _place      where weights go, and how fast anything could bring them there
    _prompts    lengths of prompts, from transfer-bound to compute-bound
    _passes     one pass, timed: resident, streamed, the usual way, by layer
    _cold       first tokens of a model that is not there yet
    _predict    the same by the simulation of the schedule
    _traced     timelines of one of them: every weight first, and streamed
    _oversized  passes of a model that exceeds its device
    _peers      others who compute without all weights on the device, timed
    _offloaders who they are, and how they are called
    _wake       first tokens after sleep
    _steady     the same model once it is there, against one loaded plainly
    _interval   the median of pairs, and how sure it is
    _result     what comes out: figures, ratios, a JSON file
    _table      the same as text
"""
