# What the demos share; each sources it after it has set root, and defines up, rotate, look_further and down.

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# run shows a command, with paths below the repository as a user would write them, and runs it.
run() {
	printf '$ %s\n' "$(sed "s#$root/##g" <<<"$*")"
	"$@"
}

# main [up|down]
main() {
	case ${1:-up} in
	up)
		# One after another, not joined by &&, within which set -e has no effect.
		up
		rotate
		look_further
		;;
	down) down ;;
	*) echo "usage: $0 [up|down]" >&2 && exit 2 ;;
	esac
}
