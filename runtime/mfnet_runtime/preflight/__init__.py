"""`mfnet-run --check`: everything a run would refuse, and what is odd, before anything is done.

Nothing is written. The pixels of a scene are looked at, all or an even sample of them; of the model
usually the header alone.
"""
