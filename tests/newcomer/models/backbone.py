import torchvision.models as models
import torch.nn as nn
import torch.nn.functional as F

class ResNetClassifier(nn.Module):
    def __init__(self, num_classes=10, hidden=[256, 128], pretrained=False):
        super(ResNetClassifier, self).__init__()
        self.backbone = models.resnet18(weights="DEFAULT" if pretrained else None)
        in_features = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        layers = []
        for h in hidden:
            layers += [nn.Linear(in_features, h), nn.ReLU(inplace=True), nn.Dropout(p=0.2)]
            in_features = h
        self.head = nn.Sequential(*layers, nn.Linear(in_features, num_classes))
        self.act = lambda x: F.gelu(x)

    def forward(self, x):
        # x: [batch, 3, 224, 224]
        b, c, h, w = x.shape
        if not c == 3: x = x.repeat(1, 3, 1, 1)
        return self.head(self.act(self.backbone(x)))

    def freeze(self):
        for name, p in self.backbone.named_parameters():
            p.requires_grad = False

def count(model): return sum(p.numel() for p in model.parameters() if p.requires_grad == True)
