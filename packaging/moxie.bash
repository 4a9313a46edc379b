# bash completion for moxie; written by `moxie completion`
_moxie()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags
	if ((COMP_CWORD == 1)); then
		mapfile -t COMPREPLY < <(compgen -W 'run chat serve eval bench inspect synth tokenize --help --version' -- "$cur")
		return
	fi
	case $prev in
	--load-format) mapfile -t COMPREPLY < <(compgen -W 'auto safetensors dummy' -- "$cur"); return ;;
	--kv-cache-dtype) mapfile -t COMPREPLY < <(compgen -W 'auto bf16 fp8 fp8_e4m3 f32' -- "$cur"); return ;;
	--dense-dtype) mapfile -t COMPREPLY < <(compgen -W 'bf16 fp8' -- "$cur"); return ;;
	--reasoning-effort) mapfile -t COMPREPLY < <(compgen -W 'low medium high' -- "$cur"); return ;;
	--show-reasoning) mapfile -t COMPREPLY < <(compgen -W 'auto yes no' -- "$cur"); return ;;
	--sampling-defaults) mapfile -t COMPREPLY < <(compgen -W 'model openai' -- "$cur"); return ;;
	--reasoning-field) mapfile -t COMPREPLY < <(compgen -W 'reasoning_content reasoning' -- "$cur"); return ;;
	--reasoning-parser) mapfile -t COMPREPLY < <(compgen -W 'auto gpt-oss openai_gptoss' -- "$cur"); return ;;
	--tool-call-parser) mapfile -t COMPREPLY < <(compgen -W 'auto gpt-oss openai' -- "$cur"); return ;;
	--schedule-policy) mapfile -t COMPREPLY < <(compgen -W 'fcfs' -- "$cur"); return ;;
	--page-size) mapfile -t COMPREPLY < <(compgen -W '64' -- "$cur"); return ;;
	--dtype) mapfile -t COMPREPLY < <(compgen -W 'auto bfloat16 bf16' -- "$cur"); return ;;
	--quantization) mapfile -t COMPREPLY < <(compgen -W 'auto mxfp4' -- "$cur"); return ;;
	--moe-runner-backend) mapfile -t COMPREPLY < <(compgen -W 'auto' -- "$cur"); return ;;
	--tensor-parallel-size) mapfile -t COMPREPLY < <(compgen -W '1' -- "$cur"); return ;;
	--n-gpu-layers) mapfile -t COMPREPLY < <(compgen -W '99 999 -1 all auto' -- "$cur"); return ;;
	--flash-attn) mapfile -t COMPREPLY < <(compgen -W 'on 1 auto' -- "$cur"); return ;;
	--log-level) mapfile -t COMPREPLY < <(compgen -W 'error warning info debug' -- "$cur"); return ;;
	--backend) mapfile -t COMPREPLY < <(compgen -W 'sglang sglang-native sglang-oai sglang-oai-chat vllm vllm-chat openai openai-chat' -- "$cur"); return ;;
	--dataset-name) mapfile -t COMPREPLY < <(compgen -W 'random random-ids generated-shared-prefix' -- "$cur"); return ;;
	esac
	case "${COMP_WORDS[1]} ${COMP_WORDS[2]} " in
	'run '*) flags='--help --model --device --threads --context-length --load-format --chunked-prefill-size --kv-cache-dtype --dense-dtype --cuda-graph-max-bs --disable-cuda-graph --verbose --prompt --raw --system --reasoning-effort --show-reasoning --date --max-tokens --temperature --top-p --top-k --min-p --repetition-penalty --presence-penalty --frequency-penalty --seed --stop --ignore-eos --stats' ;;
	'chat '*) flags='--help --model --device --threads --context-length --load-format --chunked-prefill-size --kv-cache-dtype --dense-dtype --cuda-graph-max-bs --disable-cuda-graph --verbose --system --reasoning-effort --show-reasoning --date --max-tokens --temperature --top-p --top-k --min-p --repetition-penalty --presence-penalty --frequency-penalty --seed --ignore-eos --stats' ;;
	'serve '*) flags='--help --model --device --threads --context-length --load-format --chunked-prefill-size --kv-cache-dtype --dense-dtype --cuda-graph-max-bs --disable-cuda-graph --verbose --date --served-model-name --host --port --uds --api-key-file --api-key --allow-open-bind --open-metrics --max-running-requests --max-queued-requests --max-total-tokens --mem-fraction-static --disable-radix-cache --disable-batch-invariance --incremental-streaming-output --timeout --drain-seconds --admin-api-key --sampling-defaults --reasoning-field --reasoning-parser --tool-call-parser --schedule-policy --page-size --dtype --quantization --moe-runner-backend --tensor-parallel-size --n-gpu-layers --flash-attn --tokenizer-path --max-prefill-tokens --metrics-prefix --enable-metrics --skip-server-warmup --log-requests --log-level' ;;
	'eval '*) flags='--help --model --device --threads --context-length --load-format --chunked-prefill-size --kv-cache-dtype --dense-dtype --cuda-graph-max-bs --disable-cuda-graph --verbose --reasoning-effort --max-tokens --temperature --top-p --top-k --min-p --repetition-penalty --presence-penalty --frequency-penalty --seed --served-model-name --api-key-file --api-key --limit --parallel --show-wrong --base-url --output' ;;
	'bench serving '*) flags='--help --temperature --top-p --seed --served-model-name --api-key-file --api-key --base-url --backend --dataset-name --num-prompts --random-input-len --random-output-len --random-range-ratio --request-rate --max-concurrency --warmup-requests --flush-cache --disable-stream --disable-ignore-eos --extra-request-body --gsp-num-groups --gsp-prompts-per-group --gsp-system-prompt-len --gsp-question-len --gsp-output-len --gsp-ordered --output --output-details --cache-report --tag' ;;
	'bench latency '*) flags='--help --model --device --threads --load-format --chunked-prefill-size --kv-cache-dtype --dense-dtype --cuda-graph-max-bs --disable-cuda-graph --verbose --contexts --gen --batch --input-len --profile --output' ;;
	'bench '*) flags='--help --model --device --threads --load-format --chunked-prefill-size --kv-cache-dtype --dense-dtype --cuda-graph-max-bs --disable-cuda-graph --verbose --contexts --gen --output' ;;
	'inspect '*) flags='--help --model --device --context-length --load-format --chunked-prefill-size --kv-cache-dtype --dense-dtype --device-memory --max-running-requests --json' ;;
	'synth '*) flags='--help --threads --seed --list' ;;
	'tokenize '*) flags='--help --model --device --threads --load-format --chunked-prefill-size --kv-cache-dtype --dense-dtype --cuda-graph-max-bs --disable-cuda-graph --verbose --prompt --specials --ids' ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
	else
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
	fi
}
complete -o filenames -F _moxie moxie
