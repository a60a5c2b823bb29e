import cv2, numpy as np
def read_image(path):
    return cv2.imread(str(path)).astype(np.float32)/255
