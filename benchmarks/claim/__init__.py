"""Whether a StyleInject adapter is better than a LoRA of its size: every method, the same search, unseen pictures.

    make claim         the tables, plots and pictures of docs/CLAIM.md
    make claim-full    more training sets, all transforms, branches and routers

Data flows `tasks` (what is to be learned) and `methods` (what learns it) → `runs` (one training, kept in build/claim)
→ `study` (the search, then the reported seeds) → `paired` (tests) → `plots`, `pictures` → `page`.
"""
