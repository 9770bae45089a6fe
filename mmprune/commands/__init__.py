"""What the tools do, one file for each; mmengine's runner fails without cv2."""
