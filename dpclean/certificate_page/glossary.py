"""Sentences of the report that are the same for all certificates, and what its words mean."""

from dpclean.certificate.threats import THREATS

_TRAINING_THREATS = [threat.name for threat in THREATS.values() if threat.trains]

NOT_PROVED = (
    "Nothing on this page is proved. The way of counting was chosen, or could have been, after the votes had been seen,"
    " so no probability of error can be stated. The figures are what the votes would have given if everything had been"
    " fixed before the first run."
)
FROM_ELSEWHERE = (
    "These votes were not made by dpclean. It counted them and did the arithmetic; that they come from independent"
    " runs, each with noise of this strength on every training image, is the word of whoever made them."
)
SHARES_FROM_ELSEWHERE = (
    "These votes were not made by dpclean. It counted them and did the arithmetic; that they come from independent"
    " runs, each on a fresh random share of the training images and on nothing else, is the word of whoever made them."
)
IN_TRAINING = (
    "of the test images also occur among the training images. What is said about changes holds for them too, but a"
    " model knows what it was trained on: the accuracies here flatter."
)
FROM_SEED = (
    "The noise comes from a number that somebody chose. Everything here holds only if it was chosen after the training"
    " images were fixed, and without trying several."
)
ATTEMPTS = (
    "Earlier jobs were begun in the place of this one, each with new noise, and replaced. What is said here holds only"
    " if none of them was dropped for what its votes had shown."
)
SHARES_FROM_SEED = (
    "Which images a run took comes from a number that somebody chose. Everything here holds only if it was chosen after"
    " the training images were fixed, and without trying several."
)
SHARES_ATTEMPTS = (
    "Earlier jobs were begun in the place of this one, each with new random shares, and replaced. What is said here"
    " holds only if none of them was dropped for what its votes had shown."
)
PROVED_RADII = (
    "Where enough votes agree, no small change of the training images can have made another answer the most frequent"
    " one. Where they do not, the test image abstains: nothing is said about it."
)
PROVED_IMAGES = (
    "Where enough votes agree, no few training images, whatever was done to them, can have made another answer the most"
    " frequent one. Where they do not, the test image abstains: nothing is said about it."
)
PROVED_PARTS = (
    "Where enough models agree, no few training images, whatever was done to them, can have made the models elect"
    " another answer. Where they do not, the test image abstains: nothing is said about it."
)
UNPROVED_RADII = "From the votes of each test image a radius was computed; where too few agree, it abstains."
QUESTION = (
    "Whoever can change training images a little may be able to make a model answer wrongly on a test image of their"
    " choosing. Could they have done so here?"
)

IMAGES_QUESTION = (
    "Whoever can put images among the training images, change some or take some away may be able to make a model answer"
    " wrongly on a test image of their choosing. Could they have done so here?"
)

EVASION_QUESTION = (
    "Whoever can change a test image a little may be able to make a model answer wrongly on it. Could a changed copy of"
    " these images get another answer here?"
)
EVASION_FROM_ELSEWHERE = (
    "These votes were not made by dpclean. It counted them and did the arithmetic; that they come from one model in"
    " independent runs, each with noise of this strength on every test image, is the word of whoever made them."
)
EVASION_FROM_SEED = (
    "The noise comes from a number that somebody chose. Everything here holds only if it was chosen after model and"
    " test images were fixed, and without trying several."
)
PROVED_EVASION = (
    "Where enough votes agree, no small change of the test image can have made another answer the most frequent one."
    " Where they do not, the test image abstains: nothing is said about it."
)
EVASION_ATTACKS = (
    "How large a change is that moves each pixel value of one image by so many grey levels, up or down: about what the"
    " usual attacks on test images do. A small patch or a sticker moves few values, but each by far more."
)

PARTS_WORDS = (
    ("part", "those of the training images that one model was trained on; an image is in one part"),
    ("run", "training one model on its part and letting it vote"),
    (
        "vote",
        "the class that the model of one part gives a test image; a model that could not be trained votes for none",
    ),
    ("touched", "a part in which an image was put in, changed or taken away; its model may vote for anything"),
    ("abstain", "to make no statement, because one touched part might change the answer, or nobody voted"),
    ("changed in place", "changed in pixels or label, with the name kept that decides the part"),
    ("label", "the class a test image is known to belong to; it decides about right and wrong, and about nothing else"),
)

WORDS = (
    ("run", "one time noising the whole training set, denoising it, training a model on it and letting it vote"),
    (
        "vote",
        "the class that the model of one run gives a test image; a run that failed votes for none and still counts",
    ),
    ("sigma", "the strength of the noise: its standard deviation, where pixels go from 0 to 1"),
    ("distance", "how far two training sets are apart: the root of the sum of all squared pixel differences"),
    ("radius", "below this distance the most frequent answer stays the same"),
    ("budget", "the largest sum of squared differences in grey levels (0 to 255) that lies below the radius"),
    ("abstain", "to make no statement, because the votes do not agree enough"),
    ("ceiling", "the largest radius that this number of runs can show, reached when all votes agree"),
    ("alpha", "the risk of error: how probable it is, at most, that a statement is false"),
    (
        ", ".join(_TRAINING_THREATS),
        "whether test images are used as they are, or noised too; then the radius covers both",
    ),
    ("bound", "the rule that makes a radius of counted votes; fixed, like all settings, before the first run"),
    ("label", "the class a test image is known to belong to; it decides about right and wrong, and about nothing else"),
)

_SAME = dict(WORDS)
EVASION_WORDS = (
    ("run", "one time noising every test image, denoising it and asking the model for its class; nothing is trained"),
    ("vote", "the class that the model gives a test image in one run"),
    ("sigma", _SAME["sigma"]),
    ("smoothed prediction", "the class that most of all such runs give to an image; it is what the claims are about"),
    ("distance", "how far two images are apart: the root of the sum of all squared pixel differences"),
    *((word, _SAME[word]) for word in ("radius", "budget", "abstain", "ceiling", "alpha", "bound", "label")),
)
SHARE_WORDS = (
    ("run", "one time taking a random share of the training images, training a model on it and letting it vote"),
    ("share", "how probable it is that an image is in a run; each is in or out by itself, whatever the others are"),
    (
        "vote",
        "the class that the model of one run gives a test image; a run that took too little to train on, or failed,"
        " votes for none and still counts",
    ),
    ("put in", "so many images were not there before the attacker came, and without them the answer is the same"),
    ("changed", "so many images were others before: in what they show, their label or their name"),
    ("taken away", "so many images were there before, and with them the answer is the same"),
    ("abstain", _SAME["abstain"]),
    ("alpha", _SAME["alpha"]),
    ("bound", "the rule that makes numbers of images of counted votes; fixed, like all settings, before the first run"),
    ("label", _SAME["label"]),
)
SHARE_NOISE_WORDS = tuple(
    (word, meaning) for word, meaning in WORDS if word not in {"run", "vote", "abstain", "alpha", "bound", "label"}
)
