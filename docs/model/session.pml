/*
 * Two ends of one session (docs/protocol.md, 3.2 and 3.3; docs/states.md): rotations, records and the control stream,
 * with everything that can be lost of them, in every order. There is no clock: a timer that is armed may go off at any
 * moment, a record comes at any moment after its epoch has been sent on, or never, and either end may find its
 * connection gone at any moment. What holds here holds for every timing.
 *
 * One event is one step. An end is 0, the initiator, or 1, the responder; an epoch is its number.
 *
 *   spin -a session.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m200000       all of it: make model
 *   spin -DEDGES -a session.pml ...                        prints every step, too: before event,end,epoch after
 *
 * tests/repo/test_session_model.py takes each of those steps on two real sessions and compares what becomes of them.
 */

#ifndef EPOCHS
#define EPOCHS 4 /* three rotations: from the third on, every kind of leftover has been met */
#endif
#define NONE 15
#define QUEUE 4 /* frames under way in one direction; there are never more (asserted) */
#define I 0
#define R 1

#define NEW 0 /* State */
#define PROVISIONAL 1
#define ESTABLISHED 2
#define RETIRED 3
#define DEAD 4

#define IDLE 0 /* Rotation */
#define AWAIT_RESPONSE 1
#define AWAIT_RECORD 2
#define AWAIT_DONE 3
#define LATE_DONE 4

#define ACCEPT 16 /* frames, plus the epoch whose control key seals them */
#define REQUEST 32
#define R1 48
#define R2 64
#define R3 80
#define CLOSE 96
#define kind(frame) (frame & 240)
#define sealed_by(frame) (frame & 15)

byte state[2], rotation[2];
byte previous[2] = NONE, current[2], pending[2] = NONE;
bool connected[2] = true;
bool wanted;                                /* initiator: a rotation is asked for */
bool requested;                             /* responder: it has asked for one in this epoch */
byte seals[2], opens[2], opens_r3 = NONE;   /* the epochs of the control keys */
byte sent[2], heard[2];                     /* sets of epochs: ever sent on; whose first record has come */
byte queue[8], frames[2];                   /* to each end: QUEUE frames, and how many there are */
bool over;                                  /* an end was stopped or retired, or a key met its limit */
bool calm;                                  /* from here on nothing gets lost, and nobody asks for anything */
hidden byte event, who, epoch, i;           /* the step that is being taken */

#define START 0
#define FRAME 1
#define RECORD 2
#define ROTATE 3
#define DUE 4
#define LOST 5
#define NOT_PROMOTED 6
#define NO_RESPONSE 7
#define GRACE 8
#define RETIRE 9
#define DRAINED 10
#define STOP 11
#define EXPIRED 12

#define holds(e, n) (previous[e] == n || current[e] == n || pending[e] == n)
#define number_held(e) ((previous[e] != NONE) + (current[e] != NONE) + (pending[e] != NONE))
#define alive(e) (state[e] == PROVISIONAL || state[e] == ESTABLISHED)
#define in(set, n) ((set >> n) & 1)
#define may_send(e) (state[e] == ESTABLISHED || (state[e] == PROVISIONAL && e == I))
#define sends(e) (may_send(e) -> (e == I && pending[e] != NONE -> pending[e] : current[e]) : NONE)
#define way_from(e) (sends(e) != NONE && holds(1 - e, sends(e)))

#ifdef EDGES
c_code {
    static void print_state(void)
    {
        for (int e = 0; e < 2; e++) {
            printf("%d,%d,%d,%d,%d,%d,%d,%d:", now.state[e], now.rotation[e], now.previous[e], now.current[e],
                   now.pending[e], now.connected[e], now.sent[e], now.heard[e]);
            for (int j = 0; j < now.frames[e]; j++)
                printf("%d,", now.queue[4 * e + j]);
            putchar('/');
        }
        printf("%d,%d", now.wanted, now.requested);
    }
};
#endif

inline begin(what, end, number)
{
    event = what;
    who = end;
    epoch = number;
#ifdef EDGES
    c_code { printf("STEP "); print_state(); };
#endif
}

/* After every step: what must hold (protocol, 3.3 and 5). */
inline finish()
{
#ifdef EDGES
    c_code { printf(" %d,%d,%d ", event, who, epoch); print_state(); putchar('\n'); };
#endif
    assert(number_held(I) <= 3 && number_held(R) <= 3);
    assert(over || state[I] != ESTABLISHED || way_from(I));
    assert(over || state[R] != ESTABLISHED || way_from(R));
}

/* ---- the parts of a step, as Session has them ---- */

inline send(e, frame)
{
    if
    :: connected[e] && connected[1 - e] ->
        assert(frames[1 - e] < QUEUE);
        queue[4 * (1 - e) + frames[1 - e]] = frame;
        frames[1 - e]++
    :: else
    fi
}

inline take(e)
{
    i = 0;
    frame = queue[4 * e];
    frames[e]--;
    do
    :: i < frames[e] -> queue[4 * e + i] = queue[4 * e + i + 1]; i++
    :: else -> break
    od;
    queue[4 * e + frames[e]] = 0
}

/* _end_channel; what is under way to this end is read by nobody. */
inline end_channel(e)
{
    connected[e] = false;
    do
    :: frames[e] > 0 -> frames[e]--; queue[4 * e + frames[e]] = 0
    :: else -> break
    od;
    if
    :: e == I -> wanted = false
    :: else
    fi;
    if
    :: rotation[e] == AWAIT_RESPONSE || rotation[e] == LATE_DONE -> rotation[e] = IDLE
    :: else
    fi;
    seals[e] = NONE;
    opens[e] = NONE;
    if
    :: e == R -> opens_r3 = NONE
    :: else
    fi
}

inline wipe(e)
{
    previous[e] = NONE;
    current[e] = NONE;
    pending[e] = NONE;
    end_channel(e);
    rotation[e] = IDLE;
    state[e] = DEAD
}

inline activate(e)
{
    sent[e] = sent[e] | (1 << sends(e))
}

/* _confirm: both ends are known to have the pending epoch. */
inline confirm(e)
{
    previous[e] = current[e];
    current[e] = pending[e];
    pending[e] = NONE;
    if
    :: e == R -> requested = false; activate(R)
    :: else
    fi
}

inline receive(e)
{
    take(e);
    if
    :: kind(frame) == ACCEPT ->
        state[I] = PROVISIONAL;
        activate(I)
    :: kind(frame) != ACCEPT && !alive(e)
    :: kind(frame) != ACCEPT && alive(e) ->
        /* an honest frame is never refused: neither its key nor its turn can be wrong */
        assert(sealed_by(frame) == (kind(frame) == R3 -> opens_r3 : opens[e]));
        if
        :: kind(frame) == CLOSE -> over = true; wipe(e)
        :: kind(frame) == REQUEST ->
            assert(e == I);
            if
            :: rotation[I] != AWAIT_RESPONSE -> wanted = true
            :: else
            fi
        :: kind(frame) == R1 ->
            assert(e == R && state[R] == ESTABLISHED && rotation[R] == IDLE && current[R] != NONE);
            pending[R] = current[R] + 1;
            rotation[R] = AWAIT_DONE;
            send(R, R2 + seals[R]);
            opens_r3 = pending[R];
            seals[R] = pending[R]
        :: kind(frame) == R2 ->
            assert(e == I && rotation[I] == AWAIT_RESPONSE && current[I] != NONE);
            pending[I] = current[I] + 1;
            rotation[I] = AWAIT_RECORD;
            activate(I);
            opens[I] = pending[I];
            seals[I] = pending[I];
            send(I, R3 + seals[I])
        :: kind(frame) == R3 ->
            assert(e == R && (rotation[R] == AWAIT_DONE || rotation[R] == LATE_DONE));
            opens[R] = opens_r3;
            opens_r3 = NONE;
            if
            :: rotation[R] == AWAIT_DONE -> rotation[R] = IDLE; confirm(R)
            :: else -> rotation[R] = IDLE
            fi
        fi
    fi;
    frame = 0
}

inline first_record(e)
{
    heard[e] = heard[e] | (1 << epoch);
    if
    :: state[e] == PROVISIONAL && current[e] == epoch ->
        state[e] = ESTABLISHED;
        if
        :: e == R -> activate(R)
        :: else
        fi
    :: state[e] == ESTABLISHED && pending[e] == epoch ->
        rotation[e] = (e == R && connected[R] -> LATE_DONE : IDLE);
        confirm(e)
    :: else
    fi
}

inline expire(e)
{
    over = true;
    if
    :: previous[e] == epoch -> previous[e] = NONE
    :: previous[e] != epoch && state[e] == RETIRED ->
        if
        :: number_held(e) == 1 -> wipe(e)
        :: number_held(e) != 1 && current[e] == epoch -> current[e] = NONE
        :: else -> pending[e] = NONE
        fi
    :: else ->
        if
        :: number_held(e) - (previous[e] != NONE) == 1 -> wipe(e)
        :: number_held(e) - (previous[e] != NONE) != 1 && current[e] == epoch -> current[e] = NONE
        :: else -> pending[e] = NONE; rotation[e] = IDLE; end_channel(e)
        fi
    fi
}

/* ---- what can happen to an end ---- */

/* The first record of epoch n comes: the other end has sent on it, and this one has it. */
#define FIRST_RECORD(n)                                                                                                \
    ::d_step { in(sent[1 - e], n) && holds(e, n) && !in(heard[e], n) -> begin(RECORD, e, n); first_record(e); finish() }

/* The data plane meets a hard limit of epoch n. */
#define EXPIRES(n) ::d_step { !calm && state[e] != NEW && holds(e, n) -> begin(EXPIRED, e, n); expire(e); finish() }

proctype session(byte e)
{
    byte frame;

end:
    do
    :: d_step { connected[e] && frames[e] > 0 -> begin(FRAME, e, 0); receive(e); finish() }
    :: d_step {
           connected[e] && frames[e] == 0 && (!calm || !connected[1 - e]) ->
           begin(LOST, e, 0); end_channel(e); finish()
       }
    :: d_step { connected[e] && frames[e] > 0 && !calm -> begin(LOST, e, 0); end_channel(e); finish() }
    FIRST_RECORD(0)
    FIRST_RECORD(1)
    FIRST_RECORD(2)
    FIRST_RECORD(3)
    :: d_step {
           !calm && e == I && connected[I] && alive(I) && rotation[I] == IDLE && !wanted ->
           begin(ROTATE, I, 0); wanted = true; finish()
       }
    :: d_step {
           !calm && e == R && connected[R] && state[R] == ESTABLISHED && rotation[R] == IDLE && !requested ->
           begin(ROTATE, R, 0); requested = true; send(R, REQUEST + seals[R]); finish()
       }
    :: d_step {
           e == I && (wanted || !calm) && connected[I] && state[I] == ESTABLISHED && rotation[I] == IDLE &&
           current[I] != NONE && current[I] < EPOCHS - 1 ->
           begin(DUE, I, 0); wanted = false; rotation[I] = AWAIT_RESPONSE; send(I, R1 + seals[I]); finish()
       }

    /* timers */
    :: d_step { !calm && state[e] == PROVISIONAL -> begin(NOT_PROMOTED, e, 0); over = true; wipe(e); finish() }
    :: d_step { !calm && rotation[e] == AWAIT_RESPONSE -> begin(NO_RESPONSE, e, 0); end_channel(e); finish() }
    :: d_step { previous[e] != NONE -> begin(GRACE, e, 0); previous[e] = NONE; finish() }
    :: d_step { state[e] == RETIRED -> begin(DRAINED, e, 0); wipe(e); finish() }

    /* ends */
    :: d_step {
           !calm && alive(e) ->
           begin(RETIRE, e, 0); over = true; state[e] = RETIRED; end_channel(e); rotation[e] = IDLE; finish()
       }
    :: d_step {
           !calm && state[e] != DEAD && state[e] != NEW ->
           begin(STOP, e, 0);
           over = true;
           if
           :: connected[e] && alive(e) && rotation[e] != AWAIT_DONE && rotation[e] != LATE_DONE ->
               send(e, CLOSE + seals[e])
           :: else
           fi;
           wipe(e);
           finish()
       }
    EXPIRES(0)
    EXPIRES(1)
    EXPIRES(2)
    EXPIRES(3)
    od
}

#define settled                                                                                                        \
    (rotation[I] != AWAIT_RESPONSE && rotation[R] != LATE_DONE                                                         \
        && (!connected[I] || !connected[R]                                                                             \
            || (state[I] == ESTABLISHED && state[R] == ESTABLISHED && rotation[I] == IDLE && rotation[R] == IDLE       \
                && current[I] == current[R])))

/* M4 is under way. From some moment on, in some runs, nothing is lost any more: then every rotation comes to its end. */
init {
    d_step {
        state[R] = PROVISIONAL;
        queue[0] = ACCEPT;
        frames[I] = 1
    };
    run session(I);
    run session(R);
#ifndef EDGES
    calm = true;
#endif
    timeout ->
    assert(!calm || over || settled)
}
