"""What a model is: where it comes from, how a conversation becomes tokens, what moves in training, how it answers.

    intake     anything a person may name  ->  a checked Hugging Face folder       (no remote code, no pickle)
    weights    a folder                    ->  a transformers model
    template   a conversation              ->  token ids + which of them are supervised
    adapters   what moves while training   (LoRA and its kin, IA3, everything, the top, the head)
    quantised  a frozen base in 8 or 4 bits beneath an adapter
    attention  packed documents, shared prefixes, answer trees: exact and without padding
    generate   prompts                     ->  answers, label probabilities, losses
    merge      base + adapter              ->  one plain folder
    libraries  torch, transformers, peft   ->  imported, faster than by themselves

Only `spec`, `shapes`, `known`, `folder` and `libraries` are free of torch; import the others lazily.
"""
