"""What a model is: where it comes from, how a conversation becomes tokens, what moves in training, how it answers.

    intake     anything a person may name  ->  a checked Hugging Face folder       (no remote code, no pickle)
    weights    a folder                    ->  a transformers model
    template   a conversation              ->  token ids + which of them are supervised
    adapters   what moves while training   (LoRA, or everything)
    attention  packed documents, shared prefixes, answer trees: exact and without padding
    generate   prompts                     ->  answers, label probabilities, losses
    merge      base + adapter              ->  one plain folder

Only `spec`, `known` and `folder` are free of torch; import the others lazily.
"""
