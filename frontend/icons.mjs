// Every Tabler icon that a page may use. A name that stands here becomes <symbol id="name"> in the sprite.
export const ICONS = `
activity-heartbeat adjustments-horizontal alarm-snooze alert-circle alert-triangle app-window arrow-back-up
arrow-down arrow-left arrow-right arrow-up arrow-up-right arrows-exchange arrows-right-left arrows-split-2
ban bell bell-ringing bolt book bookmark brain brand-javascript brand-python brand-slack brand-telegram
calendar calendar-event category chart-line check chevron-down chevron-left chevron-right chevron-up
circle-check circle-dashed circle-half-2 circle-plus circle-x clock clock-exclamation clock-x cloud-off
coin copy currency-dollar database device-mobile dots-vertical download external-link eye file-text filter
fold gauge git-compare hand-grab hand-stop heart-off heartbeat help-circle history inbox info-circle key
keyboard layout-dashboard link list-details lock login logout mail menu-2 message message-2 message-circle
moon note pencil player-pause player-play plug-connected plug-x plus printer progress prompt refresh repeat
report robot route search send server server-2 settings shield-check shield-lock square-check stack-2 sun
tag terminal-2 tool transfer trash urgent user user-check user-share users webhook world x zoom-question
`
  .trim()
  .split(/\s+/);
