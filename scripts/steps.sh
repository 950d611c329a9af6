# For other scripts: which step of how many begins, and how long it has been. On a terminal with a bar, elsewhere a line.
# shellcheck shell=bash
#
#   . scripts/steps.sh
#   steps_in_all 3
#   step "wheels"            == 1 of 3: wheels (0:00 so far)
#   steps_end "it is there"  == it is there (4:07 in all)

steps_done=0
steps_all=0

# steps_in_all NUMBER [PREFIX]: the time counts from here.
steps_in_all() {
    steps_done=0
    steps_all=$1
    steps_prefix=${2:-$'\n=='}
    steps_began=$SECONDS
}

# step TEXT: the one before it, if any, is done.
step() {
    local elapsed=$((SECONDS - steps_began)) left='' bar='' dots
    if ((steps_done > 0)); then
        left=", about $(steps_time $((elapsed * (steps_all - steps_done) / steps_done))) left"
    fi
    if [[ -t 1 ]]; then
        printf -v bar '%*s' $((24 * steps_done / steps_all)) ''
        printf -v dots '%*s' $((24 - ${#bar})) ''
        bar="[${bar// /#}${dots// /.}] "
    fi
    steps_done=$((steps_done + 1))
    printf '%s %s%d of %d: %s (%s so far%s)\n' "$steps_prefix" "$bar" "$steps_done" "$steps_all" "$*" "$(steps_time "$elapsed")" "$left"
}

# steps_end TEXT: all of them are done.
steps_end() {
    printf '%s %s (%s in all)\n' "$steps_prefix" "$*" "$(steps_time $((SECONDS - steps_began)))"
}

# steps_time SECONDS: as 4:07, or 1:02:30
steps_time() {
    if (($1 >= 3600)); then
        printf '%d:%02d:%02d' $(($1 / 3600)) $(($1 / 60 % 60)) $(($1 % 60))
    else
        printf '%d:%02d' $(($1 / 60)) $(($1 % 60))
    fi
}
