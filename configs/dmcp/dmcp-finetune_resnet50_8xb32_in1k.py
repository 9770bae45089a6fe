# DMCP on ImageNet, third of three: the learned subnet trained from scratch, as in the paper.
#   tools/dist_train.sh THIS_CONFIG 8
_base_ = ['./dmcp-deploy_resnet50_8xb32_in1k.py']
