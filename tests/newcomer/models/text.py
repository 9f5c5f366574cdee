from typing import List, Dict, Optional, Union
from torch import nn, Tensor
from transformers import AutoModel, AutoConfig


class BertClassifier(nn.Module):
    """text classifier built on a pretrained model, the pooled output goes through a linear layer"""

    def __init__(self, name: str = "bert-base-uncased", num_classes: int = 2, dropout: float = None):
        super().__init__()
        config = AutoConfig.from_pretrained(name)
        self.bert = AutoModel.from_pretrained(name, config=config)
        self.dropout = nn.Dropout(dropout or config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_classes)
        self.cache = {}

    def forward(self, input_ids: Tensor, attention_mask: Optional[Tensor] = None) -> Tensor:
        outputs = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        pooled = outputs.last_hidden_state[:, 0]
        return self.classifier(self.dropout(pooled))

    def layers(self) -> List:
        return [l for l in self.bert.encoder.layer]

    def embed(self, batch: Dict[str, Union[Tensor, List[str]]]):
        return self.bert(batch["input_ids"]).last_hidden_state.mean(dim=1)
