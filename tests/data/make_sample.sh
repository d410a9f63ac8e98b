#!/bin/sh
# Makes sample_8k.wav beside this script: about 40 s of synthetic English
# speech, 8 kHz, mono, 16 bit, from four voices (two male, two female) that
# take turns, three sentences each, with pauses of about 0.3 s.
# The sentences were written for this file and together use every English
# phoneme.  Needs espeak-ng and sox.  Every run with the same versions of
# these gives the same file.
set -eu

dir=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# say SPEAKER TEXT: appends one sentence to the sample.
n=10
say() {
    case $1 in                  # voice, pitch, words per minute, peak in dBFS
    m1) voice=en-us+m3          pitch=40 rate=165 peak=-6 pause=0.30 ;;
    f1) voice=en-gb-x-rp+f3     pitch=38 rate=175 peak=-7.5 pause=0.25 ;;
    m2) voice=en-gb-scotland+m7 pitch=62 rate=150 peak=-8 pause=0.35 ;;
    f2) voice=en-us+f5          pitch=66 rate=180 peak=-7 pause=0.20 ;;
    esac
    n=$((n + 1))
    espeak-ng -v "$voice" -p "$pitch" -s "$rate" -w "$tmp/raw.wav" "$2"
    # Band limit and resample, cut the silence off both ends, set the level,
    # then add the pause.
    sox -D "$tmp/raw.wav" -b 16 -c 1 "$tmp/s$n.wav" \
        gain -6 rate -v 8000 \
        silence 1 0.01 0.1% reverse silence 1 0.01 0.1% reverse \
        norm "$peak" pad 0.05 "$pause"
}

say m1 "The young fisherman chose a thick rope and tied both boats."
say f1 "Our cousin Joyce usually measures the garage before she parks."
say m2 "A warm breeze pushed yellow leaves over the old church wall."
say f2 "Could you give the judge a good reason why these five cups are chipped?"
say m1 "Nothing annoys my neighbour more than a noisy engine."
say f1 "We heard thirty birds sing near the pier while the rain fell."
say m2 "Put the cooked mushrooms and the brown bread by the fire."
say f2 "Their father bought eight large oranges and a jar of sweet pickle."
say m1 "Most people dream of treasure but Doug asked for a cheap bicycle."
say f1 "This vase is beige and azure with a thin gold stripe round the edge."
say m2 "Which of the six visitors was sure that the clock had stopped?"
say f2 "Thank you for bringing those toys that the boys have waited all week to see."

# A faint background, as every recording has: pauses are not digital silence.
sox -D "$tmp"/s*.wav "$tmp/speech.wav"
sox -D -R "$tmp/speech.wav" -b 16 "$tmp/noise.wav" synth pinknoise vol 0.002
sox -D -m -v 1 "$tmp/speech.wav" -v 1 "$tmp/noise.wav" "$dir/sample_8k.wav"
